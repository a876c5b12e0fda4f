"""Token rows written as MDS shards."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.manifest import write_manifest
from mosaic_dataloader.prepare.options import PrepareOptions
from mosaic_dataloader.prepare.progress import Progress
from mosaic_dataloader.prepare.rows import Tokens, cut_rows, join_documents
from mosaic_dataloader.prepare.sources import Source, fingerprint, read_text
from mosaic_dataloader.prepare.tokenizers import DocumentEncoder

COLUMN = "tokens"
HASH = "xxh64"
# Enough text to keep the tokenizer's threads busy, little enough to hold in memory.
BATCH_BYTES = 4 << 20


@dataclass
class Count:
    """What has been read so far: documents used, files left out, and tokens of the documents."""

    documents: int = 0
    skipped: int = 0
    empty: int = 0
    tokens: int = 0


def write_shards(
    directory: Path, sources: Sequence[Source], options: PrepareOptions, wanted: Mapping[str, Any]
) -> None:
    """Tokenize the documents, cut them into rows and write these, with a manifest at the end.

    Args:
        directory: Existing, empty directory.
        sources: The documents, in order.
        options: Sequence length, shard size and tokenizer.
        wanted: What goes into the manifest as options.

    Raises:
        MosaicDataError: The tokenizer cannot be used, or the documents hold fewer than two tokens.
    """
    from streaming import MDSWriter

    name = options.train_tokenizer if options.train_tokenizer is not None else options.tokenizer
    assert name is not None  # PrepareOptions sees to it
    kwargs = {} if options.train_tokenizer is not None else options.tokenizer_kwargs
    encoder = DocumentEncoder(name, kwargs)
    count, samples = Count(), 0
    writer = MDSWriter(
        columns={COLUMN: f"ndarray:{encoder.dtype.name}"},
        out=str(directory),
        hashes=[HASH],
        size_limit=options.shard_bytes,
    )
    with writer, Progress("tokenizing", sum(source.size for source in sources)) as progress:
        documents = _documents(sources, encoder, count, progress)
        for row in cut_rows(join_documents(documents, encoder.eos_id), options.seq_len):
            writer.write({COLUMN: row})
            samples += 1
    if not samples:
        raise MosaicDataError(
            f"prepare: the {len(sources)} files that {options.input!r} matches hold no text "
            f"to train on ({count.skipped} are not UTF-8, {count.empty} are empty)"
        )
    facts = {
        "documents": count.documents,
        "skipped": count.skipped,
        "empty": count.empty,
        "tokens": count.tokens + count.documents - 1,
        "samples": samples,
        "shards": len(writer.shards),
        "sources": fingerprint(sources),
    }
    write_manifest(directory, wanted, facts)


def _documents(
    sources: Sequence[Source], encoder: DocumentEncoder, count: Count, progress: Progress
) -> Iterator[Tokens]:
    for batch, size in _batches(sources, count):
        for tokens in encoder.encode(batch):
            if len(tokens):
                count.documents += 1
                count.tokens += len(tokens)
                yield tokens
            else:
                count.empty += 1
        progress.advance(size)


def _batches(sources: Sequence[Source], count: Count) -> Iterator[tuple[list[str], int]]:
    """Texts in groups of about `BATCH_BYTES`, each with the bytes of the files it took."""
    texts: list[str] = []
    size = 0
    for source in sources:
        text = read_text(source)
        size += source.size
        if text is None:
            count.skipped += 1
        elif not text:
            count.empty += 1
        else:
            texts.append(text)
        if size >= BATCH_BYTES:
            yield texts, size
            texts, size = [], 0
    if size:
        yield texts, size
