"""From a unit of work to a folder of shards: a pure function, whoever computes it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from streaming import MDSWriter

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare.documents import ReadOptions, Rejected
from mosaic_prepare.encode import TokenizerSpec, Tokens, encode
from mosaic_prepare.output import LocalOutput, RemoteOutput
from mosaic_prepare.units import WorkUnit, documents

# Text that is tokenized at a time: enough for a tokenizer's threads.
_BATCH_BYTES = 1 << 20
# Rejected input that is named in a unit's note; all is counted.
NAMED = 5


@dataclass(frozen=True)
class UnitJob:
    """What turns any unit into shards; travels to other processes and machines.

    Attributes:
        read: How documents are found.
        stops: Whether input that is not a document ends the run.
        tokenizer: What tokens are made with; None for text.
        seq_len: Targets in a row; None for documents and text.
        document_ends: Whether rows have that column.
        split_validation: Share of the documents for validation.
        compression: See `PrepareOptions`.
        hashes: See `PrepareOptions`.
        shard_bytes: See `PrepareOptions`.
        output: Where the folders go.
        digest: Of the options that decide what a unit's shards are.
    """

    read: ReadOptions
    stops: bool
    tokenizer: TokenizerSpec | None
    seq_len: int | None
    document_ends: bool
    split_validation: float
    compression: str | None
    hashes: tuple[str, ...]
    shard_bytes: int
    output: LocalOutput | RemoteOutput
    digest: str

    @property
    def columns(self) -> dict[str, str]:
        """MDS encodings by column."""
        if self.tokenizer is None:
            return {"text": "str"}
        tokens = {"tokens": f"ndarray:{self.tokenizer.dtype}"}
        if self.seq_len is None or not self.document_ends:
            return tokens
        return {"document_ends": "ndarray:int32", **tokens}

    def __call__(self, unit: WorkUnit) -> dict[str, Any]:
        """Make a unit's shards and put them in their place.

        Returns:
            The unit's note: what came of it.

        Raises:
            MosaicDataError: The input cannot be read or is not a document, or the output cannot be
                written.
        """
        splits = ("train", "validation") if self.split_validation else ("",)
        with self.output.folder() as folder:
            writers = {split: _SplitWriter(self, folder / split / unit.name) for split in splits}
            rejected = self._write(unit, writers)
            note = {
                "digest": self.digest,
                "stamp": unit.stamp,
                "max_document_bytes": self.read.max_document_bytes,
                "rejected": rejected,
                "splits": {split: writer.finish() for split, writer in writers.items()},
            }
            self.output.commit(unit.name, folder, note)
        return note

    def _write(self, unit: WorkUnit, writers: Mapping[str, "_SplitWriter"]) -> list[Any]:
        """Write all documents; returns the first that were rejected, as JSON."""
        rejected: list[Any] = []
        batch: list[tuple[str, str]] = []
        held = 0
        for document in documents(unit, self.read):
            if isinstance(document, Rejected):
                if self.stops:
                    raise MosaicDataError(f"prepare: {document}; {REMEDY}")
                # What is not a document counts for training.
                next(iter(writers.values())).skipped += 1
                if len(rejected) < NAMED:
                    # Not the file's URL, which may hold a secret.
                    rejected.append(
                        [document.file.name, document.unit, document.number, document.why]
                    )
                continue
            data = document.encode()
            split = self._split(data)
            if not data:
                writers[split].empty += 1
                continue
            batch.append((split, document))
            held += len(data)
            if held >= _BATCH_BYTES:
                self._flush(batch, writers)
                held = 0
        self._flush(batch, writers)
        return rejected

    def _split(self, data: bytes) -> str:
        if not self.split_validation:
            return ""
        # Content decides, so that equal documents never are on both sides.
        chance = xxhash.xxh64_intdigest(data) / 2**64
        return "validation" if data and chance < self.split_validation else "train"

    def _flush(self, batch: list[tuple[str, str]], writers: Mapping[str, "_SplitWriter"]) -> None:
        if self.tokenizer is None:
            for split, text in batch:
                writers[split].add_text(text)
        elif batch:
            texts = [text for _, text in batch]
            for (split, text), tokens in zip(batch, encode(self.tokenizer, texts), strict=True):
                writers[split].add_tokens(tokens, len(text.encode()))
        batch.clear()


REMEDY = 'mend it, or leave such input out with bad_input = "skip"'


class _Shards(MDSWriter):
    """MDSWriter, without an empty shard before a sample that is larger than a shard."""

    def flush_shard(self) -> None:
        if self.new_samples:
            super().flush_shard()


class _SplitWriter:
    """A unit's share of one split."""

    def __init__(self, job: UnitJob, folder: Path):
        self._job = job
        self._folder = folder
        self._shards = _Shards(
            columns=job.columns,
            out=str(folder),
            compression=job.compression,
            hashes=list(job.hashes),
            size_limit=job.shard_bytes,
        )
        self._rows = None if job.seq_len is None else RowCutter(job.seq_len)
        self.documents = self.empty = self.skipped = self.tokens = self.text_bytes = 0
        self.largest = -1

    def add_text(self, text: str) -> None:
        self.documents += 1
        self.text_bytes += len(text.encode())
        self._shards.write({"text": text})

    def add_tokens(self, tokens: Tokens, text_bytes: int) -> None:
        if not len(tokens):
            self.empty += 1
            return
        self.documents += 1
        self.text_bytes += text_bytes
        self.tokens += len(tokens)
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
        index = self._folder / "index.json"
        shards = json.loads(index.read_text())["shards"]
        index.unlink()
        for shard in shards:
            for key in ("raw_data", "zip_data"):
                if shard[key]:
                    shard[key]["basename"] = f"{self._folder.name}/{shard[key]['basename']}"
        counts = ("documents", "empty", "skipped", "tokens", "text_bytes", "largest")
        return {**{name: getattr(self, name) for name in counts}, "shards": shards}

    def _write_rows(self, rows: Iterator[tuple[Tokens, Any]]) -> None:
        for tokens, ends in rows:
            sample = {"tokens": tokens}
            if self._job.document_ends:
                sample["document_ends"] = ends
            self._shards.write(sample)


class RowCutter:
    """Cuts documents, joined end to end, into rows that overlap by one token.

    A row has `seq_len + 1` tokens: as many inputs, and targets one position later, as a step trains
    on. It therefore starts with the last token of the row before, and every token but the very
    first is a target once. The last row may be shorter, but has a target.

    Args:
        seq_len: Targets in a row, T.
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
        """Take in a document, with the token that ends it.

        Yields:
            Rows that are full by now, [T+1], and the int32 offsets in each of the tokens that end
            a document (a single -1 where none does).
        """
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


def merged(notes: Sequence[Mapping[str, Any]], split: str) -> dict[str, Any]:
    """The index of a split, out of its units' notes in order."""
    return {
        "version": 2,
        "shards": [shard for note in notes for shard in note["splits"][split]["shards"]],
    }
