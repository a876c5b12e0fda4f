"""A corpus of files."""

import hashlib
from collections.abc import Iterator, Sequence

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import Block, Position, Reading
from mosaic_dataloader.prepare.corpus.jsonl import line_ranges, packed_lines
from mosaic_dataloader.prepare.corpus.opening import InputFile, opened
from mosaic_dataloader.prepare.corpus.parquet import row_groups
from mosaic_dataloader.prepare.corpus.text import separated, whole_files

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}


class FileCorpus:
    """See `Corpus`. Blocks are numbered by file, then by what can be counted in it.

    Args:
        files: The files, in order.
        reading: How to read them.
        text: Every file is text, whatever its name.

    Raises:
        MosaicDataError: A file cannot be read in the format that it has.
    """

    def __init__(self, files: Sequence[InputFile], reading: Reading, *, text: bool = False):
        self._files = files
        self._reading = reading
        self._text = text
        self.total: int | None = sum(max(file.size, 0) for file in files)
        self.fingerprint = _digest((file.name, str(file.size)) for file in files)
        self.stamp = _digest((file.name, str(file.size), file.stamp) for file in files)
        kinds = {self._format(file) for file in files}
        if reading.separator is not None and (text or "text" not in kinds):
            raise MosaicDataError(
                "prepare: document_separator is for text files, and there is none; leave it out"
            )
        if reading.columns != ("text",) and kinds == {"text"}:
            raise MosaicDataError(
                "prepare: text_columns is given, but all input is plain text; set input_format = "
                '"jsonl" or "parquet", or leave it out'
            )
        for file in files:
            if self._format(file) == "parquet" and file.compression:
                raise MosaicDataError(
                    f"prepare: {file.name} is a compressed Parquet file, which cannot be entered "
                    f"in the middle; unpack it (Parquet compresses by itself)"
                )

    def blocks(self, start: Position) -> Iterator[Block]:
        """See `Corpus`."""
        index = start[0]
        while index < len(self._files):
            count, blocks = self._at(index)
            for block in blocks:
                if block.position >= start:
                    yield block
            index += count

    def size_before(self, position: Position) -> int:
        """See `Corpus`; whole files are counted."""
        return sum(max(file.size, 0) for file in self._files[: position[0]])

    def __len__(self) -> int:
        """See `Corpus`."""
        return len(self._files)

    def _at(self, index: int) -> tuple[int, Iterator[Block]]:
        """The blocks that begin with a file, and how many files they hold."""
        file, reading = self._files[index], self._reading
        kind = self._format(file)
        if kind == "parquet":
            return 1, row_groups(index, file, reading)
        if kind == "jsonl":
            enter = line_ranges if _can_be_entered(file) else packed_lines
            return 1, enter(index, file, reading)
        if reading.separator is not None and not self._text:
            return 1, separated(index, file, reading)
        count, block = next(whole_files(index, self._run_of_text(index), reading))
        return count, iter([block])

    def _run_of_text(self, index: int) -> Iterator[InputFile]:
        for number in range(index, len(self._files)):
            if self._format(self._files[number]) != "text":
                return
            yield self._files[number]

    def _format(self, file: InputFile) -> str:
        if self._text:
            return "text"
        if self._reading.format != "auto":
            return self._reading.format
        return _FORMATS.get(file.suffix, "text")


def _can_be_entered(file: InputFile) -> bool:
    """Whether a file can be read from anywhere."""
    if file.compression or file.size < 0:
        return False
    if not file.url.startswith("http"):
        return True
    # Servers may know sizes, but no ranges.
    with opened(file) as stream:
        try:
            stream.seek(min(1, file.size))
        except ValueError:
            return False
    return True


def _digest(rows: Iterator[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(("\0".join(row) + "\n").encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
