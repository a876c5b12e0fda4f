"""A unit's documents on their way into shards. Imported late: mosaicml-streaming imports torch."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter

from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.tokenizers import Tokens


class _Shards(MDSWriter):
    """MDSWriter, without an index, and without an empty shard before a sample larger than one."""

    def flush_shard(self) -> None:
        if self.new_samples:
            super().flush_shard()

    def _write_index(self) -> None:
        # The run writes one for all units. MDSWriter's own waits a second for its uploads, though
        # there are none, wherever their thread has not looked yet.
        pass


class SplitWriter:
    """A unit's share of one split."""

    def __init__(self, options: PrepareOptions, columns: Mapping[str, str], folder: Path):
        self._folder = folder
        self._has_ends = "document_ends" in columns
        self._shards = _Shards(
            columns=dict(columns),
            out=str(folder),
            compression=options.compression,
            hashes=sorted(options.hashes),
            size_limit=options.shard_bytes,
        )
        rows = options.form == "rows" and options.seq_len
        self._rows = RowCutter(rows) if rows else None
        self.documents = self.empty = self.skipped = self.tokens = self.text_bytes = 0
        self.largest = -1
        self.longest = 0
        self._lengths: Counter[int] = Counter()

    def add_text(self, text: str) -> None:
        """Write a document."""
        self.documents += 1
        size = len(text.encode())
        self.text_bytes += size
        self._count(size)
        self._shards.write({"text": text})

    def add_tokens(self, tokens: Tokens, text_bytes: int) -> None:
        """Write a document, ended by its token; one without a token of its own is left out."""
        if not len(tokens):
            self.empty += 1
            return
        self.documents += 1
        self.text_bytes += text_bytes
        self.tokens += len(tokens)
        self._count(len(tokens))
        self.largest = max(self.largest, int(tokens.max()))
        if self._rows is None:
            self._shards.write({"tokens": tokens})
        else:
            self._write_rows(self._rows.add(tokens))

    def finish(self) -> dict[str, Any]:
        """Write what is left; returns what came of it and the shards as the index names them."""
        if self._rows is not None:
            self._write_rows(self._rows.finish())
        self._shards.finish()
        shards = self._shards.shards
        for shard in shards:
            for key in ("raw_data", "zip_data"):
                if shard[key]:
                    shard[key]["basename"] = f"{self._folder.name}/{shard[key]['basename']}"
        counts = ("documents", "empty", "skipped", "tokens", "text_bytes", "largest", "longest")
        return {
            **{name: getattr(self, name) for name in counts},
            "lengths": sorted(self._lengths.items()),
            "shards": shards,
        }

    def _count(self, length: int) -> None:
        self.longest = max(self.longest, length)
        # In its seven leading bits (within 1.6 %), so that there are few different ones.
        shift = max(0, length.bit_length() - 7)
        self._lengths[length >> shift << shift] += 1

    def _write_rows(self, rows: Iterator[tuple[Tokens, Any]]) -> None:
        for tokens, ends in rows:
            sample = {"tokens": tokens}
            if self._has_ends:
                sample["document_ends"] = ends
            self._shards.write(sample)


class RowCutter:
    """Cuts documents, joined end to end, into rows that overlap by one token.

    A row has `seq_len + 1` tokens: as many inputs, and targets one position later, as a step trains
    on. It therefore starts with the last token of the row before, and every token but the very
    first is a target once. The last row may be shorter, but has a target.
    """

    # Rows that are cut at a time.
    _ROWS = 32

    def __init__(self, seq_len: int):
        self._seq_len = seq_len
        self._parts: list[Tokens] = []
        self._held = 0
        # Places in `_parts`, joined, of the tokens that end a document.
        self._ends: list[int] = []

    def add(self, document: Tokens) -> Iterator[tuple[Tokens, Any]]:
        """Take in a document, with the token that ends it."""
        self._parts.append(document)
        self._held += len(document)
        self._ends.append(self._held - 1)
        if self._held > self._ROWS * self._seq_len:
            yield from self._cut((self._held - 1) // self._seq_len)

    def finish(self) -> Iterator[tuple[Tokens, Any]]:
        """The rows that are left."""
        yield from self._cut(-(-(self._held - 1) // self._seq_len))

    def _cut(self, rows: int) -> Iterator[tuple[Tokens, Any]]:
        if rows < 1:
            return
        size = self._seq_len
        tokens = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        ends = np.array(self._ends, np.int64)
        for begin in range(0, rows * size, size):
            first, last = np.searchsorted(ends, [begin, begin + size + 1])
            own = (ends[first:last] - begin).astype(np.int32)
            yield tokens[begin : begin + size + 1], own if len(own) else np.array([-1], np.int32)
        done = min(rows * size, self._held - 1)
        self._parts = [tokens[done:]]
        self._held -= done
        self._ends = [int(end) - done for end in ends[np.searchsorted(ends, done) :]]
