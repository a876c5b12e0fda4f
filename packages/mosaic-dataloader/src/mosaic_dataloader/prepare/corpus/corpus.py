"""What all corpora have in common, and how options name one."""

from collections.abc import Iterator
from typing import Protocol

from mosaic_dataloader.prepare.corpus.blocks import Block, Position, Reading
from mosaic_dataloader.prepare.corpus.files import FileCorpus
from mosaic_dataloader.prepare.corpus.hub import HubCorpus, HubName
from mosaic_dataloader.prepare.corpus.listing import PYTHON_STDLIB, list_files
from mosaic_dataloader.prepare.options import PrepareOptions


class Corpus(Protocol):
    """All documents, in order.

    Attributes:
        total: Bytes of input, as stored; None where nobody knows.
        fingerprint: Names the selection: names and sizes of files. Contents are not read.
        stamp: Changes also when a file was written again, where its store tells.
    """

    total: int | None
    fingerprint: str
    stamp: str

    def blocks(self, start: Position) -> Iterator[Block]:
        """The blocks from one on, by ascending position; `(0,)` is the beginning.

        The same input is cut into the same blocks, whatever the start.

        Raises:
            MosaicDataError: The input cannot be read.
        """

    def size_before(self, position: Position) -> int:
        """About how many bytes of input lie before a position."""

    def __len__(self) -> int:
        """Files or data set shards."""


def open_corpus(options: PrepareOptions) -> Corpus:
    """Find the input.

    Raises:
        MosaicDataError: There is none, or it cannot be read.
    """
    reading = Reading(
        format=options.input_format,
        columns=tuple(options.text_columns),
        column_separator=options.column_separator,
        separator=options.document_separator,
        max_document_bytes=options.max_document_bytes,
    )
    if options.input_format == "dataset":
        hub = HubName(
            options.inputs[0], options.dataset_config, options.dataset_split, options.dataset_kwargs
        )
        return HubCorpus(hub, reading)
    # Its files are text whatever they hold.
    text = options.inputs == (PYTHON_STDLIB,)
    return FileCorpus(list_files(options.inputs), reading, text=text)
