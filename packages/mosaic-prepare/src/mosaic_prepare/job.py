"""From a work unit to a folder of shards: a pure function, wherever it is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xxhash

from mosaic_prepare.documents import RejectedInput
from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.output import Output
from mosaic_prepare.tokenizers import TokenizerSpec, encode
from mosaic_prepare.units import WorkUnit, documents

if TYPE_CHECKING:
    from mosaic_prepare.shards import SplitWriter

# Text that is tokenized at a time: enough for a tokenizer's threads.
_BATCH_BYTES = 1 << 20
# Rejected input that is named in a unit's note; all is counted.
NAMED = 5


@dataclass(frozen=True)
class UnitJob:
    """What turns any unit into shards; travels to other processes and machines.

    Attributes:
        options: What to prepare.
        tokenizer: What tokens are made with; None for text.
        output: Where the folders go.
        digest: Of the options that decide what a unit's shards are.
    """

    options: PrepareOptions
    tokenizer: TokenizerSpec | None
    output: Output
    digest: str

    @property
    def columns(self) -> dict[str, str]:
        """MDS encodings by column."""
        if self.tokenizer is None:
            return {"text": "str"}
        tokens = {"tokens": f"ndarray:{self.tokenizer.dtype}"}
        if self.options.form != "rows" or not self.options.document_ends:
            return tokens
        return {"document_ends": "ndarray:int32", **tokens}

    def __call__(self, unit: WorkUnit) -> dict[str, Any]:
        """Make a unit's shards and put them in their place."""
        from mosaic_prepare.shards import SplitWriter

        with self.output.new_folder() as folder:
            writers = {
                split: SplitWriter(self.options, self.columns, folder / split / unit.name)
                for split in self.options.splits
            }
            rejected = self._write(unit, writers)
            note = {
                "digest": self.digest,
                "stamp": unit.stamp,
                "max_document_bytes": self.options.max_document_bytes,
                "rejected": rejected,
                "splits": {split: writer.finish() for split, writer in writers.items()},
            }
            self.output.commit(unit.name, folder, note)
        return note

    def _write(self, unit: WorkUnit, writers: Mapping[str, "SplitWriter"]) -> list[Any]:
        """Write all documents; returns the first that were rejected, as JSON."""
        rejected: list[Any] = []
        batch: list[tuple[str, str]] = []
        held = 0
        for document in documents(unit, self.options):
            if isinstance(document, RejectedInput):
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
        if not self.options.split_validation:
            return ""
        # Content decides, so that equal documents never are on both sides.
        chance = xxhash.xxh64_intdigest(data) / 2**64
        return "validation" if data and chance < self.options.split_validation else "train"

    def _flush(self, batch: list[tuple[str, str]], writers: Mapping[str, "SplitWriter"]) -> None:
        if self.tokenizer is None:
            for split, text in batch:
                writers[split].add_text(text)
        elif batch:
            texts = [text for _, text in batch]
            for (split, text), tokens in zip(batch, encode(self.tokenizer, texts), strict=True):
                writers[split].add_tokens(tokens, len(text.encode()))
        batch.clear()
