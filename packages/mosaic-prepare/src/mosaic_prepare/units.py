"""What is read, in which format, and how it is cut into work units."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import xxhash

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare.documents import Document, NotADocumentError, Piece, RejectedInput
from mosaic_prepare.hub import dataset_pieces, read_dataset
from mosaic_prepare.inputs import PYTHON_STDLIB, list_files
from mosaic_prepare.opening import DAMAGE, opened, reason
from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.records import read_jsonl, read_text
from mosaic_prepare.tables import read_arrow, read_delimited, read_parquet

# Bytes of input in a unit: at least enough to be worth a process's while, at most what may be
# lost with one; between them, some 256 units for the whole input.
_SMALLEST, _LARGEST, _UNITS = 8 << 20, 256 << 20, 256


@dataclass(frozen=True)
class Format:
    """How files of a format are read; this is all that a new one needs.

    Attributes:
        suffixes: Names of its files, without that of a compression.
        read: The documents of a piece; raises one of `DAMAGE` or `NotADocumentError` where the file
            cannot be read on.
        cut: Whether reading can begin in the middle of a file. Not in CSV: whether a line end is
            inside quotes depends on all that comes before it.
        packed: Whether its files may be compressed as a whole.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Piece, PrepareOptions], Iterator[Document]]
    cut: bool = True
    packed: bool = True


FORMATS = {
    "text": Format((".txt", ".text", ".md", ".rst", ".tex"), read_text),
    "jsonl": Format((".jsonl", ".ndjson", ".json"), read_jsonl),
    "parquet": Format((".parquet", ".pq"), read_parquet, packed=False),
    "arrow": Format((".arrow", ".feather", ".ipc"), read_arrow, packed=False),
    "csv": Format((".csv",), partial(read_delimited, delimiter=","), cut=False),
    "tsv": Format((".tsv", ".tab"), partial(read_delimited, delimiter="\t"), cut=False),
    "dataset": Format((), read_dataset),
}


@dataclass(frozen=True)
class WorkUnit:
    """A part of the input that becomes a folder of shards.

    Attributes:
        pieces: What it holds, in order.
    """

    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """Of its folder: from the names and sizes of its files and where it cuts them."""
        rows = ((p.file.name, p.file.size, p.start, p.stop) for p in self.pieces)
        return f"unit-{_digest(rows)[:16]}"

    @property
    def stamp(self) -> str:
        """Changes when one of its files does."""
        return _digest((p.file.stamp,) for p in self.pieces)

    @property
    def size(self) -> int:
        """Bytes of input, as stored."""
        return sum(piece.size for piece in self.pieces)


def documents(unit: WorkUnit, options: PrepareOptions) -> Iterator[Document]:
    """The documents of a unit, and with `bad_input = "skip"` what is found in their place.

    A file that cannot be read on is left from there; the next one follows.

    Raises:
        MosaicDataError: A part is not a document, with `bad_input = "error"`; or it cannot be read.
    """
    for piece in unit.pieces:
        for found in _read(piece, options):
            if isinstance(found, RejectedInput) and options.bad_input == "error":
                raise MosaicDataError(
                    f'prepare: {found}; correct it, or leave such input out with bad_input = "skip"'
                )
            yield found


def _read(piece: Piece, options: PrepareOptions) -> Iterator[Document]:
    try:
        yield from FORMATS[piece.format].read(piece, options)
    except NotADocumentError as error:
        yield RejectedInput(piece.file, "", 0, str(error))
    except DAMAGE as error:
        yield RejectedInput(piece.file, "", 0, f"is damaged: {reason(error)}")


def pieces_of(options: PrepareOptions) -> list[Piece]:
    """The input, file by file, and how each is read.

    Raises:
        MosaicDataError: There is none, it cannot be found, or nothing says how to read it.
    """
    if options.input_format == "dataset":
        return dataset_pieces(options)
    # The library's files are text whatever their names.
    given = "text" if options.inputs == (PYTHON_STDLIB,) else options.input_format
    by_suffix = {suffix: name for name, kind in FORMATS.items() for suffix in kind.suffixes}
    pieces = []
    for file in list_files(options.inputs):
        name = by_suffix.get(file.suffix) if given == "auto" else given
        if name is None:
            raise MosaicDataError(
                f"prepare: cannot tell the format of {file.name} from its name; say which with "
                f"input_format (text, jsonl, …), or give a glob that leaves it out"
            )
        if file.compression and not FORMATS[name].packed:
            raise MosaicDataError(
                f"prepare: {file.name} is a compressed {name} file, which cannot be read in parts; "
                f"decompress it (the format has compression of its own)"
            )
        pieces.append(Piece(file, name))
    kinds = {piece.format for piece in pieces}
    if options.document_separator is not None and "text" not in kinds:
        raise MosaicDataError(
            "prepare: document_separator is for text files, and the input has none; leave it out"
        )
    if tuple(options.text_columns) != ("text",) and kinds == {"text"}:
        raise MosaicDataError(
            "prepare: text_columns is given, but all input is plain text; set input_format, or "
            "leave it out"
        )
    return pieces


def bytes_of_unit(total: int) -> int:
    """Size of a unit; a power of two, so that input that changes a little is cut the same."""
    wanted = max(total // _UNITS, 1)
    return min(max(1 << (wanted.bit_length() - 1), _SMALLEST), _LARGEST)


def plan(pieces: Sequence[Piece], unit_bytes: int, options: PrepareOptions) -> list[WorkUnit]:
    """Cut the input into units, by its files' names and sizes alone.

    A large file is cut into equal parts. Small ones are put together; whether a unit ends after a
    file is decided by a hash of its name, so that a file that is removed, added or changed alters
    the units around it and no others. Names count as `input` gives them: a relative glob is cut
    alike wherever the corpus is, an absolute one only in the same place.
    """
    units: list[WorkUnit] = []
    group: list[Piece] = []
    held = 0

    def close() -> None:
        nonlocal held
        if group:
            units.append(WorkUnit(tuple(group)))
            group.clear()
            held = 0

    for piece in pieces:
        size = piece.file.size
        # A file of unknown size may be large.
        if piece.format == "dataset" or size < 0 or size >= unit_bytes:
            close()
            units.extend(WorkUnit((part,)) for part in _parts(piece, unit_bytes, options))
            continue
        group.append(piece)
        held += size
        name = piece.file.name.encode("utf-8", "surrogateescape")
        chance = xxhash.xxh64_intdigest(name) / 2**64
        if held >= 2 * unit_bytes or (held >= unit_bytes // 4 and chance < size / unit_bytes):
            close()
    close()
    return units


def _parts(piece: Piece, unit_bytes: int, options: PrepareOptions) -> Iterator[Piece]:
    """Equal parts of a large file, or of a data set's rows."""
    file = piece.file
    end = file.size if piece.stop is None else piece.stop
    count = -(-file.size // unit_bytes) if _can_be_cut(piece, options) else 1
    count = max(1, min(count, end - piece.start))
    if piece.format == "dataset":
        file = replace(file, size=file.size // count)
    edges = [piece.start + (end - piece.start) * part // count for part in range(1, count)]
    for start, stop in zip([piece.start, *edges], [*edges, piece.stop], strict=True):
        yield Piece(file, piece.format, start, stop)


def _can_be_cut(piece: Piece, options: PrepareOptions) -> bool:
    file = piece.file
    if not FORMATS[piece.format].cut or file.compression or file.size < 0:
        return False
    if piece.format == "text" and options.document_separator is None:
        return False
    if not file.url.startswith("http"):
        return True
    # Servers may know sizes, but no ranges.
    with opened(file) as stream:
        return stream.seekable()


def fingerprint(pieces: Sequence[Piece]) -> str:
    """Identifies the selection by names and sizes of files; contents are not read."""
    return _digest((piece.file.name, piece.file.size, piece.start) for piece in pieces)


def _digest(rows: Iterator[tuple[object, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        line = "\0".join(map(str, row)) + "\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
