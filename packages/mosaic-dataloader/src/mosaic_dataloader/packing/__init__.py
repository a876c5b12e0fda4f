"""Packing: joining documents of any length into full rows, the same under every layout.

A loader that cuts one stream of tokens per rank carries a leftover from row to row, so that its
position depends on which rank read what before. Here the leftover belongs to a *lane*, and lanes
belong to the run:

1. **Lanes.** The order of documents is cut into S lanes. A canonical node's documents go to the
   lanes whose number is congruent to the node's modulo ``gcd(S, canonical nodes)``, one each, over
   and over, and each epoch continues with the lane that follows. Where the canonical nodes divide S
   and the length of an epoch, this means that lane l takes the positions p with ``p mod S = l``;
   where they do not divide an epoch, that rule would move a lane to the next canonical node with
   each epoch, and each machine would in time read every shard (``lanes.py``).
2. **Rows.** A lane joins the tokens of its documents and cuts them into rows of T+1 tokens, each
   beginning with the last token of the row before: every token but a lane's very first is a target
   exactly once. Row g of the run is the next row of lane ``g mod S``, and global micro-batch k is
   rows ``[G, G + B)``. Nothing is padded and nothing is cut away (``lane.py``).
3. **Ranks.** The number of data-parallel ranks W divides S, and a lane's rank follows from its
   number modulo W. So any B consecutive rows are shared out equally, a lane stays on one rank, and
   no rank tokenizes another's text. Which residue belongs to which rank is a permutation that keeps
   a canonical node's lanes on one machine (`lanes.residue_of_rank`).
4. **State.** A lane's state is the position of its first unfinished document and the offset in it
   of the token that the next row begins with. Each rank saves those of its lanes, under the keys
   ``lane_0000``, ``lane_0001``, …, and ``mosaic``, which is the same on all ranks; torch's
   distributed checkpoint collects them, and under another W each rank loads the lanes that are its
   own then. A lane continues by reading its unfinished document again (``state/saved.py``,
   ``sources/packed.py``). What was read ahead does not count: a batch carries the states of its
   lanes after it, and they replace the earlier ones when it is handed out.
5. **Reading.** How many documents fill a row is known only when they are read. A scheduler guesses
   which ones the next rows need, and asks for many at a time, for several lanes together, so that
   the tokenizer's threads have enough to do (``scheduler.py``). Worker processes receive places of
   documents and return tokens; lanes are joined in the parent. The guess decides only when a
   document is read, never which row it ends up in.

A document without text or tokens is left out, as ``mosaic-prepare`` does (`DocumentReader`).

A **finite pass** (``infinite=False``, validation) reads each lane to the end of the epoch. The rest
of a lane that fills no row becomes a padded one, and lanes that have ended are skipped. How
many rows there will be is not known before, so ranks cannot agree on their number without talking
to one another: a finite pass over several ranks is left to validation, whose trainer evens the
ranks out with batches in which every label is ignored.

Lanes advance by rows, not by documents: one with longer documents falls behind in the order. The
lanes' positions spread like a random walk, by ``S * sqrt(n) * c`` positions after n documents in
each lane whose lengths have the coefficient of variation c. So many shards more than the shuffle
window are in use at a time.
"""
