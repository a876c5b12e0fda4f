"""The whole preparation: tokenizer first, then the data."""

import logging
import os
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.corpus import open_corpus
from mosaic_dataloader.prepare.dataset import write_dataset
from mosaic_dataloader.prepare.encode import EncoderSpec
from mosaic_dataloader.prepare.hashes import KNOWN
from mosaic_dataloader.prepare.manifest import FILE_NAME, manifest_text, read_manifest
from mosaic_dataloader.prepare.options import PrepareOptions
from mosaic_dataloader.prepare.publish import directory_lock, publish
from mosaic_dataloader.prepare.report import PrepareReport
from mosaic_dataloader.prepare.targets import open_target
from mosaic_dataloader.prepare.tokenizers import file_identity, load_tokenizer, train_tokenizer
from mosaic_dataloader.reading.tokenizer_identity import TokenizerIdentity

logger = logging.getLogger("mosaic_dataloader.prepare")


def prepare(options: PrepareOptions) -> PrepareReport:
    """Write the MDS shards, and the tokenizer if one is to be trained, unless they are there.

    A local directory appears complete or not at all. A call that was interrupted, however, is gone
    on from by the next one with the same options, and the result is the same; a second process
    waits for the first.

    Args:
        options: What to prepare.

    Raises:
        MosaicDataError: Nothing to read, a tokenizer that cannot be used, an output that was
            prepared with other options or that is not ours, or one that cannot be written.
    """
    _check_names(options)
    tokenizer = _tokenizer(options)
    wanted = _data_options(options, tokenizer)
    target = open_target(options)
    facts = target.facts(wanted)
    created = False
    if facts is None:
        with target.lock():
            facts = target.facts(wanted)
            if facts is None:
                corpus = open_corpus(options)
                spec, identity = _encoder(options, tokenizer)
                try:
                    write_dataset(target, corpus, options, wanted, spec, identity)
                except OSError as error:
                    raise MosaicDataError(
                        f"prepare: cannot write {target.name}: {error.strerror or error}"
                    ) from error
                facts = target.facts(wanted)
                created = True
    if facts is None:
        raise MosaicDataError(f"prepare: {target.name} vanished while it was being prepared")
    selection = facts.pop("sources")
    facts.pop("largest")
    report = PrepareReport(
        output=options.output if options.remote else Path(options.output),
        tokenizer=os.fspath(tokenizer or ""),
        created=created,
        **facts,
    )
    _announce(report, options, selection)
    return report


def _check_names(options: PrepareOptions) -> None:
    """See that compression and hashes are ones that mosaicml-streaming knows."""
    if options.compression is not None:
        from streaming.base.compression import get_compressions, is_compression

        if not is_compression(options.compression):
            known = ", ".join(sorted(name for name in get_compressions() if ":" not in name))
            raise MosaicDataError(
                f"prepare: compression = {options.compression!r} is not one of {known} (some with "
                f'a level, as "zstd:7")'
            )
    for name in options.hashes:
        if name not in KNOWN:
            raise MosaicDataError(f"prepare: hashes: {name!r} is not one of {', '.join(KNOWN)}")


def _tokenizer(options: PrepareOptions) -> str | Path | None:
    """The tokenizer to use, trained first if that is wanted and not done yet."""
    if options.train_tokenizer is None:
        return options.tokenizer
    directory = Path(options.train_tokenizer)
    wanted = {**_input_options(options), "vocab_size": options.entries}
    if read_manifest(directory, wanted, setting="train_tokenizer") is None:
        with directory_lock(directory):
            if read_manifest(directory, wanted, setting="train_tokenizer") is None:
                corpus = open_corpus(options)
                logger.info(
                    "training a tokenizer of %d entries on %d files",
                    options.entries,
                    len(corpus),
                )

                def build(partial: Path) -> None:
                    facts = train_tokenizer(corpus, partial, options)
                    (partial / FILE_NAME).write_text(manifest_text(wanted, facts))

                publish(directory, build)
    # As it is written: a path loses its "./", without which it may be taken for a name on the hub.
    return options.train_tokenizer


def _encoder(
    options: PrepareOptions, tokenizer: str | Path | None
) -> tuple[EncoderSpec, TokenizerIdentity | None]:
    if tokenizer is None:
        return EncoderSpec(form="text", split_validation=options.split_validation), None
    return load_tokenizer(tokenizer, options.tokenizer_kwargs, options)


def _input_options(options: PrepareOptions) -> dict[str, Any]:
    """What decides which documents there are. Left out: what leaves them as they are."""
    return {
        "input": list(options.inputs),
        "input_format": options.input_format,
        "text_columns": list(options.text_columns),
        "column_separator": options.column_separator,
        "document_separator": options.document_separator,
        "dataset_config": options.dataset_config,
        "dataset_split": options.dataset_split,
        "dataset_kwargs": dict(options.dataset_kwargs),
    }


def _data_options(options: PrepareOptions, tokenizer: str | Path | None) -> dict[str, Any]:
    kwargs = options.tokenizer_kwargs
    return {
        **_input_options(options),
        "form": options.form,
        "seq_len": options.seq_len,
        "shard_bytes": options.shard_bytes,
        "compression": options.compression,
        "hashes": sorted(options.hashes),
        "split_validation": options.split_validation,
        "add_bos": options.add_bos,
        "special_tokens": options.special_tokens,
        "tokenizer": None if tokenizer is None else file_identity(tokenizer, kwargs),
    }


def _announce(report: PrepareReport, options: PrepareOptions, selection: str) -> None:
    what = f"{report.samples:,} rows" if options.form == "rows" else f"{report.samples:,} samples"
    if options.seq_len is not None:
        what += f" of {options.seq_len + 1}"
    if report.tokens:
        what = f"{report.tokens:,} tokens in {what}"
    logger.info(
        "%s %s: %s from %s documents (left out: %d no documents, %d empty)",
        "prepared" if report.created else "already prepared, nothing to do:",
        report.output,
        what,
        f"{report.documents:,}",
        report.skipped,
        report.empty,
    )
    if not report.created and _input_changed(options, selection):
        logger.warning(
            "the files that %s matches have changed since %s was prepared; it is used as it is. "
            "Delete it to prepare it again",
            ", ".join(options.inputs),
            report.output,
        )


def _input_changed(options: PrepareOptions, selection: str) -> bool:
    """Whether other files are there now. None at all is no change: sources may be cleared away.

    Stores and data sets are not asked: that may take long, or cost.
    """
    if options.input_format == "dataset" or any("://" in name for name in options.inputs):
        return False
    try:
        return open_corpus(options).fingerprint != selection
    except MosaicDataError:
        return False
