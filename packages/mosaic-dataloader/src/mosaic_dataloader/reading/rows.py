"""Reading batches of samples into tensors."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
from mosaic_dataloader.reading.documents import encode_texts
from mosaic_dataloader.reading.positions import Boundaries, ends_in_rows
from mosaic_dataloader.reading.vocabulary import first_outside, outside_error
from mosaic_dataloader.storage.mds import ScatteredRows
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.util.threads import run_async, stopped

# TorchTitan's and torch's cross entropy's ignore index.
IGNORE_INDEX = -100
# A shard is checked as a whole once this process has read one in so many of its rows.
_CHECKED_WHEN_READ = 4
# Token ids of a shard that are looked at in one call, which holds no lock of Python's.
_IDS_AT_ONCE = 1 << 20


def fill_row(
    inputs: Int64Array, labels: Int64Array, row: int, tokens: NDArray[Any], pad_id: int
) -> None:
    """Write token ids, integer[n], to a row of inputs and labels, both int64[B, T].

    With at least T+1 tokens the row gives T inputs and T labels; a row of exactly T tokens keeps
    them all as inputs and ignores its last label; shorter rows are padded.
    """
    length = inputs.shape[1]
    count = len(tokens)
    if count > length:
        inputs[row] = tokens[:length]
        labels[row] = tokens[1 : length + 1]
        return
    inputs[row, :count] = tokens
    inputs[row, count:] = pad_id
    targets = max(count - 1, 0)
    labels[row, :targets] = tokens[1:]
    labels[row, targets:] = IGNORE_INDEX


def fill_padding(inputs: Int64Array, labels: Int64Array, row: int, pad_id: int) -> None:
    """Write a row that stands for no sample: all labels are ignored."""
    inputs[row] = pad_id
    labels[row] = IGNORE_INDEX


class RowBatch(NamedTuple):
    """Rows of a batch, freshly allocated: the caller may keep them.

    Attributes:
        inputs: int64[B, T].
        labels: int64[B, T].
        full: Whether every label is a target. It is known where rows are made; looking for it in
            the labels costs a third of what copying them does.
        ends: int64[K], where documents end (see `reading.positions`); None unless that was asked
            for.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    full: bool
    ends: Int64Array | None = None


@dataclass
class _Draft:
    """A batch whose texts are not encoded yet; ``inputs`` and ``labels`` are int64[B, T].

    ``texts`` are still to be written, to ``rows``; ``origins`` are their shards and places in them.
    ``full`` and, by row, ``stored_ends`` are what is known by now of targets and of where documents
    end.
    """

    inputs: Int64Array
    labels: Int64Array
    full: bool = False
    texts: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    origins: list[tuple[int, int]] = field(default_factory=list)
    stored_ends: dict[int, NDArray[Any]] = field(default_factory=dict)


@dataclass
class EncodedBatches:
    """Batches whose texts are encoded, and not written into their rows yet.

    Attributes:
        drafts: The batches.
        tokens: int64[n] of each text of all of them.
        failure: Why there are no more; None where nothing failed.
    """

    drafts: list[_Draft]
    tokens: Iterator[Int64Array]
    failure: MosaicDataError | None


class RowReader:
    """Turns samples into rows of T tokens.

    The ``tokenizer`` is for text; None where all streams hold tokens. The model embeds
    ``vocab_size`` token ids; None if that is not known.

    Attributes:
        has_text: Whether a stream holds text, which is to be encoded.
    """

    def __init__(
        self,
        store: ShardStore,
        mixture: Mixture,
        seq_len: int,
        tokenizer: BatchTokenizer | None,
        pad_id: int,
        vocab_size: int | None = None,
        boundaries: Boundaries | None = None,
    ):
        self._boundaries = boundaries
        self._store = store
        self._mixture = mixture
        self._seq_len = seq_len
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._vocab_size = vocab_size
        # Rows read from shards that were not checked as a whole; and whether one is being checked.
        self._rows_read: Counter[int] = Counter()
        self._batches_checked = 0
        self._checking_shard = False
        self.has_text = any(s.column.kind == "text" for s in store.streams)
        dtypes = {dtype for s in store.streams for dtype in s.dtypes}
        # Of one dtype, rows are gathered as they are and widened on their way into the tensors.
        self._gather_dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.int64)

    def batch(self, shards: Sequence[int], places: Sequence[int]) -> RowBatch:
        """Read a batch.

        Args:
            shards: Shard of each of B rows; a negative one is a row of padding.
            places: Place of each within its shard.

        Raises:
            MosaicDataError: A shard cannot be fetched or is damaged, or a token id is negative or
                beyond the vocabulary.
        """
        return next(self.written(self.encoded([(shards, places)])))

    def encoded(self, wanted: Iterable[tuple[Sequence[int], Sequence[int]]]) -> EncodedBatches:
        """Read batches, and encode the texts of all of them at once.

        A tokenizer's threads have more to share out than a single batch's documents. The result,
        for ``written`` in any thread, ends before the first batch that cannot be read.
        """
        drafts: list[_Draft] = []
        failure = None
        for shards, places in wanted:
            try:
                drafts.append(self._draft(shards, places))
            except MosaicDataError as error:
                failure = error
                break
            # No file is held while texts are encoded, which takes longer than anything else here.
            self._store.release()
        texts = [text for draft in drafts for text in draft.texts]
        return EncodedBatches(drafts, encode_texts(self._store, self._tokenizer, texts), failure)

    def written(self, encoded: EncodedBatches) -> Iterator[RowBatch]:
        """Write encoded texts into their rows; what ``batch`` returns for each batch.

        Raises:
            MosaicDataError: As for ``batch``, after the batches before that one.
        """
        for draft in encoded.drafts:
            for row, origin in zip(draft.rows, draft.origins, strict=True):
                self._fill(draft, row, next(encoded.tokens), *origin)
            inputs, labels = draft.inputs, draft.labels
            # Rows are filled from their beginning: one with a last target is full of them.
            full = draft.full or bool(labels[:, -1].min() >= 0)
            ends = None
            if self._boundaries is not None:
                ends = ends_in_rows(inputs, self._boundaries.eos_id, draft.stored_ends)
                if self._boundaries.mask and len(ends):
                    labels.reshape(-1)[ends] = IGNORE_INDEX
                    full = False
            yield RowBatch(torch.from_numpy(inputs), torch.from_numpy(labels), full, ends)
        if encoded.failure is not None:
            raise encoded.failure

    def sample(self, sample_id: int) -> torch.Tensor:
        """One sample's token ids, int64[n], at most T+1 of them."""
        shards, places = self._mixture.locate(np.array([sample_id], np.int64))
        shard, place = int(shards[0]), int(places[0])
        tokens: NDArray[Any]
        with self._store.reading(shard) as opened:
            if opened.has_text:
                encoded = encode_texts(self._store, self._tokenizer, [opened.text(place)])
                tokens = next(encoded)[: self._seq_len + 1]
            else:
                tokens = opened.tokens(place)[: self._seq_len + 1].astype(np.int64)
        return torch.from_numpy(tokens)

    def _draft(self, shards: Sequence[int], places: Sequence[int]) -> _Draft:
        shape = (len(shards), self._seq_len)
        draft = _Draft(np.empty(shape, np.int64), np.empty(shape, np.int64))
        draft.full = self._gather(draft, shards, places)
        if not draft.full:
            self._read(draft, np.asarray(shards), np.asarray(places))
        return draft

    def _gather(self, draft: _Draft, shards: Sequence[int], places: Sequence[int]) -> bool:
        """Copy full rows out of shards that are open already; False if not all are such.

        The whole hot path: one pass over the rows in Python, three in C; a fourth one checks the
        ids of shards that were not checked as a whole.
        """
        full = self._store.full_rows
        try:
            rows = [full[shard][place] for shard, place in zip(shards, places, strict=True)]
            if self._boundaries is not None:
                draft.stored_ends = _stored_ends(full, shards, places)
        except KeyError:
            return False
        if not rows:
            return True
        # From a buffer that stays in the processor's cache, twice into place.
        gathered = np.concatenate(rows, dtype=self._gather_dtype, casting="unsafe")
        if not self._store.checked.issuperset(shards):
            self._check_gathered(gathered, shards, places)
        gathered = gathered.reshape(len(rows), self._seq_len + 1)
        draft.inputs[...] = gathered[:, :-1]
        draft.labels[...] = gathered[:, 1:]
        return True

    def _check_gathered(
        self, gathered: NDArray[Any], shards: Sequence[int], places: Sequence[int]
    ) -> None:
        """Check the ids of a batch, and now and then a whole shard so that its batches need none.

        Checking a batch costs a sixth of making it. A whole shard takes less time for each id, but
        pays only in a process that reads a good part of the shard: one rank of many does not.
        """
        bad = first_outside(gathered, self._vocab_size)
        if bad >= 0:
            row, token_id = bad // (self._seq_len + 1), int(gathered[bad])
            raise self._outside(shards[row], places[row], token_id)
        # One row stands for all: to count each of them would cost as much as it saves.
        self._batches_checked += 1
        shard = shards[self._batches_checked % len(shards)]
        self._rows_read[shard] += len(shards)
        rows = self._store.full_rows.get(shard)
        if (
            isinstance(rows, np.ndarray)
            and self._rows_read[shard] * _CHECKED_WHEN_READ >= len(rows)
            and not self._checking_shard
        ):
            self._checking_shard = True
            # So that one with an id outside is not checked as a whole again and again.
            self._rows_read[shard] = -len(rows)
            run_async(partial(self._check_shard, shard, rows), "mosaic-check")

    def _check_shard(self, shard: int, rows: NDArray[Any]) -> None:
        """Check all rows of a shard; one with an id outside stays to be checked by batches."""
        step = max(1, _IDS_AT_ONCE // (self._seq_len + 1))
        try:
            for first in range(0, len(rows), step):
                ids = rows[first : first + step].reshape(-1)
                ids = ids.astype(self._gather_dtype, copy=False)
                if stopped() or self._store.full_rows.get(shard) is not rows:
                    # The process ends; or the shard was closed, and its space is wanted.
                    return
                if first_outside(ids, self._vocab_size) >= 0:
                    return
            self._store.note_checked(shard, rows)
        finally:
            self._checking_shard = False

    def _read(self, draft: _Draft, shards: Int64Array, places: Int64Array) -> None:
        """Read rows of any kind, opening and fetching shards where needed; texts as they are."""
        inputs, labels = draft.inputs, draft.labels
        # Shard by shard, so that each is opened once per batch.
        for shard in dict.fromkeys(shards.tolist()):
            rows = np.flatnonzero(shards == shard).tolist()
            if shard < 0:
                for row in rows:
                    fill_padding(inputs, labels, row, self._pad_id)
                continue
            with self._store.reading(shard) as opened:
                wanted = places[rows].tolist()
                if opened.has_text:
                    draft.texts += [opened.text(place) for place in wanted]
                    draft.rows += rows
                    draft.origins += [(shard, place) for place in wanted]
                    continue
                if self._boundaries is not None and opened.ends is not None:
                    draft.stored_ends.update(
                        (row, opened.ends[place]) for row, place in zip(rows, wanted, strict=True)
                    )
                for row, place in zip(rows, wanted, strict=True):
                    # Kept in no variable: a view would keep the shard mapped while the next one is
                    # waited for, and its space taken when it is evicted.
                    self._fill(draft, row, opened.tokens(place), shard, place)

    def _fill(self, draft: _Draft, row: int, tokens: NDArray[Any], shard: int, place: int) -> None:
        tokens = tokens[: self._seq_len + 1]
        bad = first_outside(tokens, self._vocab_size)
        if bad >= 0:
            raise self._outside(shard, place, int(tokens[bad]))
        fill_row(draft.inputs, draft.labels, row, tokens, self._pad_id)

    def _outside(self, shard: int, place: int, token_id: int) -> MosaicDataError:
        return outside_error(
            self._store.streams, self._mixture, self._vocab_size, shard, place, token_id
        )


def _stored_ends(
    full: Mapping[int, NDArray[Any] | ScatteredRows], shards: Sequence[int], places: Sequence[int]
) -> dict[int, NDArray[Any]]:
    """By row, where documents end in it, for rows whose shard stores that.

    Raises:
        KeyError: A shard is not open; another thread may just have closed it.
    """
    return {
        row: opened.ends[place]
        for row, (shard, place) in enumerate(zip(shards, places, strict=True))
        if isinstance(opened := full[shard], ScatteredRows) and opened.ends is not None
    }
