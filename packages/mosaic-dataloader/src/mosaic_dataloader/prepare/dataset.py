"""From documents to shards, index and manifest."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.corpus import Corpus
from mosaic_dataloader.prepare.counts import Counts
from mosaic_dataloader.prepare.encode import EncoderSpec, Result
from mosaic_dataloader.prepare.journal import Journal
from mosaic_dataloader.prepare.manifest import FILE_NAME, manifest_text
from mosaic_dataloader.prepare.mds import ShardFormat
from mosaic_dataloader.prepare.options import PrepareOptions
from mosaic_dataloader.prepare.pool import Pool, Task, available_cores
from mosaic_dataloader.prepare.progress import Progress
from mosaic_dataloader.prepare.rows import Buffer, RowBuffer, SampleBuffer
from mosaic_dataloader.prepare.targets import Target
from mosaic_dataloader.prepare.tokenizers import refuse_bad
from mosaic_dataloader.prepare.writer import SHARDS_UNDER_WAY, SplitWriter
from mosaic_dataloader.reading.tokenizer_identity import TokenizerIdentity

logger = logging.getLogger("mosaic_dataloader.prepare")

_TOLD = 5


def write_dataset(
    target: Target,
    corpus: Corpus,
    options: PrepareOptions,
    wanted: Mapping[str, Any],
    spec: EncoderSpec,
    tokenizer: TokenizerIdentity | None,
) -> None:
    """Write all files of a data set, going on where an interrupted run stopped.

    The bytes depend on the documents and on `wanted` alone.

    Args:
        target: Where to; its lock is held.
        corpus: The documents.
        options: How.
        wanted: What goes into the manifest as options.
        spec: What workers do.
        tokenizer: Which tokenizer that is; None for text.

    Raises:
        MosaicDataError: The input cannot be read or holds nothing, or the output not be written.
    """
    # A name on a hub may stand for another tokenizer by the time that a run goes on.
    made_with = None if tokenizer is None else tokenizer.fingerprint
    more_of_job = {"input_stamp": corpus.stamp, "tokenizer_fingerprint": made_with}
    job = json.loads(json.dumps({**wanted, **more_of_job}))
    journal = target.journal(job)
    column = "str" if options.form == "text" else f"ndarray:{spec.dtype}"
    columns = {"text" if options.form == "text" else "tokens": column}
    shards = ShardFormat(columns, options.compression, options.hashes, options.shard_bytes)
    try:
        finished = _write_shards(target, corpus, options, spec, shards, journal)
    except BaseException:
        target.give_up(journal)
        raise
    facts = {split: _facts(index, counts, spec) for split, (index, counts) in finished.items()}
    try:
        _refuse_nothing(facts, options)
    except MosaicDataError:
        # No run with these options can be completed; one with others must not find their shards.
        journal.keep(0)
        target.give_up(journal)
        raise
    more = {
        "form": options.form,
        "columns": columns,
        "tokenizer": None if tokenizer is None else tokenizer.as_json(),
    }
    total: dict[str, Any] = {"sources": corpus.fingerprint, "splits": facts}
    for name in ("documents", "skipped", "empty", "tokens", "text_bytes", "samples", "shards"):
        total[name] = sum(fact[name] for fact in facts.values())
    total["largest"] = max(fact["largest"] for fact in facts.values())
    for split, (index, _) in finished.items():
        prefix = f"{split}/" if split else ""
        if split:
            # Before the index: who finds that looks for this.
            note = manifest_text(wanted, facts[split], **more)
            target.save(prefix + FILE_NAME, note.encode())
        text = json.dumps({"version": 2, "shards": index}, sort_keys=True)
        target.save(f"{prefix}index.json", text.encode())
    target.save(FILE_NAME, manifest_text(wanted, total, **more).encode())
    target.publish(journal)


def _write_shards(
    target: Target,
    corpus: Corpus,
    options: PrepareOptions,
    spec: EncoderSpec,
    shards: ShardFormat,
    journal: Journal,
) -> dict[str, tuple[list[dict[str, Any]], Counts]]:
    # The end-of-text token before the very first document is left out.
    skip = 1 if options.form == "rows" else 0
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(SHARDS_UNDER_WAY, "prepare-shards"))
        writers = [
            SplitWriter(
                split, _buffer(options, spec, shards), shards, target, threads, journal, skip
            )
            for split in options.splits
        ]
        waiting = [writer.start for writer in writers if not writer.ended]
        if waiting:
            start = min(waiting)
            done = corpus.size_before(start)
            if journal.entries:
                logger.info(
                    "going on where an interrupted run stopped: %d shards are done",
                    len(journal.entries),
                )
            pool = stack.enter_context(Pool(spec, options.processes or available_cores()))
            title = "writing text" if options.form == "text" else "tokenizing"
            progress = stack.enter_context(Progress(title, corpus.total, done))
            told = 0
            for result in pool.map(_tasks(corpus, writers)):
                told = _tell_bad(result, options, told)
                for writer in writers:
                    writer.add(result)
                target.note(journal)
                counts = [part.counts for part in result.parts.values()]
                progress.advance(
                    result.size,
                    sum(count.text_bytes for count in counts),
                    sum(count.tokens for count in counts),
                )
        return {writer.split: writer.finish() for writer in writers}


def _tasks(corpus: Corpus, writers: Sequence[SplitWriter]) -> Iterator[Task]:
    """The blocks that a split needs, and which do."""
    start = min(writer.start for writer in writers if not writer.ended)
    for block in corpus.blocks(start):
        yield block, tuple(w.split for w in writers if w.wants(block.position))


def _buffer(options: PrepareOptions, spec: EncoderSpec, shards: ShardFormat) -> Buffer:
    if options.form != "rows":
        return SampleBuffer(shards)
    assert options.seq_len is not None  # PrepareOptions sees to it
    return RowBuffer(options.seq_len, np.dtype(spec.dtype), shards)


def _tell_bad(result: Result, options: PrepareOptions, told: int) -> int:
    for bad in result.bad:
        refuse_bad(bad, options)
        if told < _TOLD:
            logger.warning("left out: %s", bad)
        told += 1
        if told == _TOLD:
            logger.warning("further input that is left out is counted, but not named")
    return told


def _facts(index: list[dict[str, Any]], counts: Counts, spec: EncoderSpec) -> dict[str, Any]:
    facts = counts.as_json()
    if spec.form == "rows" and counts.documents:
        facts["tokens"] -= 1
    facts["samples"] = sum(shard["samples"] for shard in index)
    facts["shards"] = len(index)
    return facts


def _refuse_nothing(facts: Mapping[str, Mapping[str, Any]], options: PrepareOptions) -> None:
    met = {name: sum(f[name] for f in facts.values()) for name in ("skipped", "empty", "documents")}
    if not any(fact["samples"] for fact in facts.values()):
        raise MosaicDataError(
            f"prepare: input {', '.join(options.inputs)} holds no text to train on "
            f"({met['skipped']} pieces are no documents, {met['empty']} documents are empty)"
        )
    for split, fact in facts.items():
        if not fact["samples"]:
            raise MosaicDataError(
                f"prepare: split_validation = {options.split_validation} leaves nothing for "
                f"{split}, of {met['documents']} documents; choose another share"
            )
