"""The whole preparation: sources, tokenizer, rows, shards, manifest."""

import logging
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.manifest import read_manifest
from mosaic_dataloader.prepare.options import PrepareOptions, PrepareReport
from mosaic_dataloader.prepare.publish import directory_lock, publish
from mosaic_dataloader.prepare.shards import write_shards
from mosaic_dataloader.prepare.sources import fingerprint, list_sources
from mosaic_dataloader.prepare.tokenizers import identify, train_tokenizer

logger = logging.getLogger("mosaic_dataloader.prepare")


def prepare(options: PrepareOptions) -> PrepareReport:
    """Write the MDS shards, and the tokenizer if one is to be trained, unless they are there.

    Each of the two directories appears complete or not at all. A call that was killed leaves
    nothing that the next does not clear away; a second process waits for the first.

    Args:
        options: What to prepare.

    Raises:
        MosaicDataError: Nothing to read, a tokenizer that cannot be used, a directory that was
            prepared with other options or that is not ours, or one that cannot be written.
    """
    tokenizer = _tokenizer(options)
    output = Path(options.output)
    wanted = _data_options(options, tokenizer)
    facts = read_manifest(output, wanted, setting="output")
    created = False
    if facts is None:
        with directory_lock(output):
            facts = read_manifest(output, wanted, setting="output")
            if facts is None:
                found = list_sources(options.input)
                publish(output, lambda partial: write_shards(partial, found, options, wanted))
                facts = read_manifest(output, wanted, setting="output")
                created = True
    if facts is None:
        raise MosaicDataError(f"prepare: {output} vanished while it was being prepared")
    selection = facts.pop("sources")
    report = PrepareReport(output=output, tokenizer=str(tokenizer), created=created, **facts)
    _announce(report, options, selection)
    return report


def _tokenizer(options: PrepareOptions) -> str | Path:
    """The tokenizer to use, trained first if that is wanted and not done yet."""
    if options.train_tokenizer is None:
        assert options.tokenizer is not None  # PrepareOptions sees to it
        return options.tokenizer
    directory = Path(options.train_tokenizer)
    wanted: dict[str, Any] = {"input": options.input, "vocab_size": options.vocab_size}
    if read_manifest(directory, wanted, setting="train_tokenizer") is None:
        with directory_lock(directory):
            if read_manifest(directory, wanted, setting="train_tokenizer") is None:
                found = list_sources(options.input)
                logger.info(
                    "training a tokenizer of %d entries on %d documents",
                    options.vocab_size,
                    len(found),
                )
                publish(
                    directory,
                    lambda partial: train_tokenizer(
                        found, partial, vocab_size=options.vocab_size, options=wanted
                    ),
                )
    return directory


def _data_options(options: PrepareOptions, tokenizer: str | Path) -> dict[str, Any]:
    kwargs = {} if options.train_tokenizer is not None else options.tokenizer_kwargs
    return {
        "input": options.input,
        "seq_len": options.seq_len,
        "shard_bytes": options.shard_bytes,
        "tokenizer": identify(tokenizer, kwargs),
    }


def _announce(report: PrepareReport, options: PrepareOptions, selection: str) -> None:
    logger.info(
        "%s %s: %s tokens in %s rows of %d from %s documents (%d not UTF-8, %d empty left out)",
        "prepared" if report.created else "already prepared, nothing to do:",
        report.output,
        f"{report.tokens:,}",
        f"{report.samples:,}",
        options.seq_len + 1,
        f"{report.documents:,}",
        report.skipped,
        report.empty,
    )
    if not report.created and _sources_changed(options.input, selection):
        logger.warning(
            "the files that %r matches have changed since %s was prepared; it is used as it is. "
            "Delete it to prepare it again",
            options.input,
            report.output,
        )


def _sources_changed(pattern: str, selection: str) -> bool:
    """Whether other files are there now. None at all is no change: sources may be cleared away."""
    try:
        return fingerprint(list_sources(pattern)) != selection
    except MosaicDataError:
        return False
