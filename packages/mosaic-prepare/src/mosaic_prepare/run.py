"""The whole preparation: first the tokenizer, then the units, then the data set."""

import hashlib
import json
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.secrets import redacted
from mosaic_prepare.documents import RejectedInput
from mosaic_prepare.engines import Done, available_cores, run_in_processes, run_on_ray
from mosaic_prepare.job import NAMED, UnitJob
from mosaic_prepare.manifest import FILE_NAME, VERSION, manifest_text, read_manifest
from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.output import (
    LocalOutput,
    Output,
    RemoteOutput,
    directory_lock,
    flush_to_disk,
)
from mosaic_prepare.progress import Progress
from mosaic_prepare.tokenizers import file_identity, load_tokenizer, train_tokenizer
from mosaic_prepare.units import WorkUnit, bytes_of_unit, fingerprint, pieces_of, plan

logger = logging.getLogger("mosaic_prepare")

_COUNTS = ("documents", "skipped", "empty", "tokens", "text_bytes")
# Options that decide which documents there are, beside the input itself.
_READING = (
    "input_format",
    "text_columns",
    "column_separator",
    "document_separator",
    "dataset_config",
    "dataset_split",
)
# Options that decide what becomes of them, beside the tokenizer.
_WRITING = (
    "form",
    "seq_len",
    "document_ends",
    "shard_bytes",
    "compression",
    "split_validation",
    "add_bos",
    "special_tokens",
)
# Options that may change between a run that was interrupted and the one that resumes it: units
# are known by their files, and by when those were changed.
_NOT_OF_THE_JOB = ("input", "dataset_kwargs")


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a data set holds.

    Attributes:
        output: The MDS directory or URL.
        tokenizer: Directory or name of the tokenizer that the tokens were made with; empty for
            text.
        created: False when everything was there already.
        documents: Documents written.
        skipped: Parts of the input left out because they are not documents.
        empty: Documents left out because they hold no text.
        tokens: Tokens, with those that end documents; 0 for text.
        text_bytes: UTF-8 bytes of the documents.
        samples: Rows, or documents.
        shards: Shard files.
        splits: The same numbers for each split; a single one of no name where it is not split.
    """

    output: Path | str
    tokenizer: str
    created: bool
    documents: int
    skipped: int
    empty: int
    tokens: int
    text_bytes: int
    samples: int
    shards: int
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def prepare(options: PrepareOptions) -> PrepareReport:
    """Write the MDS shards, and the tokenizer if one is to be trained, unless they are there.

    A local directory appears complete or not at all. A call that was interrupted is resumed by the
    next one with the same options, with the same result; a second process waits for the first.

    Args:
        options: What to prepare.

    Raises:
        MosaicDataError: Nothing to read, a tokenizer that cannot be used, an output that was
            prepared with other options or that is not ours, or one that cannot be written.
    """
    return _prepare(options, finish=False)


def finish(options: PrepareOptions) -> PrepareReport:
    """Assemble the data set from the units that the tasks of a job array have made."""
    return _prepare(options, finish=True)


def prepare_task(options: PrepareOptions, task: int, tasks: int) -> int:
    """Make a task's share of the units; tasks count from 1. Returns the number of units."""
    if not 1 <= task <= tasks:
        raise MosaicDataError(
            f"prepare: task {task}/{tasks} is not one of 1/{tasks} to {tasks}/{tasks}"
        )
    run = _Run(options)
    if run.output.summary(run.wanted) is not None:
        return 0
    # Other tasks may be running: nothing is removed after an error.
    with _writing(run.output):
        run.open()
        own = run.units[task - 1 :: tasks]
        run.work(own)
    logger.info("task %d of %d: its %d units of %d are done", task, tasks, len(own), len(run.units))
    return len(own)


def _prepare(options: PrepareOptions, *, finish: bool) -> PrepareReport:
    run = _Run(options, only_finish=finish)
    facts, created = run.output.summary(run.wanted), False
    if facts is None:
        # Tasks of an array may still be running when somebody tries to finish.
        with run.output.lock(clears=not finish):
            facts = run.output.summary(run.wanted)
            if facts is None:
                facts, created = run.complete(), True
    selection = facts.pop("sources")
    facts.pop("largest")
    report = PrepareReport(
        output=options.output if options.remote else Path(options.output),
        tokenizer=os.fspath(run.tokenizer or ""),
        created=created,
        **facts,
    )
    _announce(report, options, selection)
    return report


@contextmanager
def _writing(output: Output) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MosaicDataError(
            f"prepare: cannot write {output.name}: {error.strerror or error}; make room or correct "
            f"it, and run the same command again to resume"
        ) from error


class _Run:
    """A preparation: its tokenizer, then its units."""

    units: list[WorkUnit]

    def __init__(self, options: PrepareOptions, *, only_finish: bool = False):
        self._options, self._only_finish = options, only_finish
        _check_names(options)
        self.tokenizer = self._trained_tokenizer() or options.tokenizer
        self.wanted = _data_options(options, self.tokenizer)
        if options.remote:
            work = os.path.abspath(options.work_dir or tempfile.gettempdir())
            self.output: Output = RemoteOutput(str(options.output).rstrip("/"), Path(work))
        else:
            self.output = LocalOutput(Path(os.path.abspath(options.output)))

    def complete(self) -> dict[str, Any]:
        """Make the missing units, then the data set; returns what it holds."""
        try:
            with _writing(self.output):
                self.open()
                return self._publish(self.work(self.units))
        except BaseException:
            if not self._only_finish:
                self.output.abort()
            raise

    def open(self) -> None:
        """Find the input, load the tokenizer, and note a job that begins; sets `units`."""
        options = self._options
        pieces = pieces_of(options)
        spec, self._identity = None, None
        if self.tokenizer is not None:
            spec, self._identity = load_tokenizer(self.tokenizer, options.tokenizer_kwargs, options)
        made_with = None if self._identity is None else self._identity.fingerprint
        total = sum(piece.size for piece in pieces)
        # A name on a hub may stand for another tokenizer by the time that a run is resumed.
        decisive = {**self.wanted, "tokenizer_fingerprint": made_with, "version": VERSION}
        decisive = {n: value for n, value in decisive.items() if n not in _NOT_OF_THE_JOB}
        job = json.loads(json.dumps({**decisive, "unit_bytes": bytes_of_unit(total)}))
        earlier = self.output.read_job()
        self._resumes = earlier is not None
        if earlier is not None:
            # Input that has grown since is cut as before, so that finished units can be used.
            job["unit_bytes"] = earlier["unit_bytes"]
            for name, wanted in job.items():
                if earlier.get(name) != wanted:
                    raise MosaicDataError(
                        f"prepare: {self.output.name} has an interrupted run with other options: "
                        f"{name}={earlier.get(name)!r} then, {name}={wanted!r} now; set it back, "
                        f"or {self.output.restart_hint()}"
                    )
        elif not self._only_finish:
            self.output.save_job(job)
        self._sources = fingerprint(pieces)
        self.units = plan(pieces, job["unit_bytes"], options)
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        self._job = UnitJob(options, spec, self.output, digest)

    def work(self, units: Sequence[WorkUnit]) -> list[Mapping[str, Any]]:
        """Make those of the units that are not done; returns the notes of all, in order."""
        # Without an earlier run there are none, and a store takes long to say so of each.
        notes = self.output.notes([unit.name for unit in units]) if self._resumes else {}
        done = {u.name: notes[u.name] for u in units if u.name in notes and self._serves(u, notes)}
        missing = [unit for unit in units if unit.name not in done]
        if missing and self._only_finish:
            raise MosaicDataError(
                f"prepare: {len(missing)} of {len(units)} units are missing; run the tasks that "
                f"have failed again, or leave out --finish to make the units here"
            )
        if missing and done:
            logger.info(
                "resuming an interrupted run: %d of %d units are done", len(done), len(units)
            )
        if missing:
            done |= self._make(missing, sum(unit.size for unit in units))
        return [done[unit.name] for unit in units]

    def _make(self, units: Sequence[WorkUnit], total: int) -> dict[str, dict[str, Any]]:
        """Make units; returns their notes by name.

        Args:
            units: Those that are missing.
            total: Bytes of input in these and those that are done.
        """
        options = self._options
        engine = (
            run_on_ray(self._job, units, options.address)
            if options.engine == "ray"
            else run_in_processes(self._job, units, options.processes or available_cores())
        )
        title = "writing text" if options.form == "text" else "tokenizing"
        notes: dict[str, dict[str, Any]] = {}
        named = 0
        with Progress(title, total, total - sum(unit.size for unit in units)) as progress:
            for unit, note in engine:
                named = _name_rejected((unit, note), named)
                notes[unit.name] = note
                parts = note["splits"].values()
                progress.advance(
                    unit.size,
                    sum(part["text_bytes"] for part in parts),
                    sum(part["tokens"] for part in parts),
                )
        return notes

    def _serves(self, unit: WorkUnit, notes: Mapping[str, Any]) -> bool:
        """Whether a unit that was made is as it would be made now."""
        note = notes[unit.name]
        if (note["digest"], note["stamp"]) != (self._job.digest, unit.stamp):
            return False
        skipped = any(part["skipped"] for part in note["splits"].values())
        same_limit = note["max_document_bytes"] == self._options.max_document_bytes
        return not skipped or (self._options.bad_input == "skip" and same_limit)

    def _publish(self, notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        parts = {split: [n["splits"][split] for n in notes] for split in self._options.splits}
        facts = {split: _facts(own) for split, own in parts.items()}
        try:
            _refuse_nothing(facts, self._options)
        except MosaicDataError:
            # No run with these options can be completed; one with others must not be refused.
            self.output.abort(everything=True)
            raise
        total: dict[str, Any] = {"sources": self._sources, "splits": facts}
        for name in (*_COUNTS, "samples", "shards"):
            total[name] = sum(fact[name] for fact in facts.values())
        total["largest"] = max(fact["largest"] for fact in facts.values())
        more = {
            "form": self._options.form,
            "columns": self._job.columns,
            "tokenizer": None if self._identity is None else self._identity.as_json(),
        }
        files = {}
        for split, own in parts.items():
            prefix = f"{split}/" if split else ""
            if split:
                # Before the index: a reader that finds the index expects its manifest.
                files[prefix + FILE_NAME] = manifest_text(self.wanted, facts[split], **more)
            index = {"version": 2, "shards": [shard for part in own for shard in part["shards"]]}
            files[f"{prefix}index.json"] = json.dumps(index, sort_keys=True)
        files[FILE_NAME] = manifest_text(self.wanted, total, **more)
        self.output.publish([unit.name for unit in self.units], files)
        return total

    def _trained_tokenizer(self) -> str | Path | None:
        """The tokenizer that is to be trained; trains it if that has not been done."""
        options = self._options
        if options.train_tokenizer is None:
            return None
        directory = Path(options.train_tokenizer)
        wanted = {**_input_options(options), "vocab_size": options.entries}
        if read_manifest(directory, wanted, setting="train_tokenizer") is None:
            with directory_lock(directory):
                if read_manifest(directory, wanted, setting="train_tokenizer") is None:
                    try:
                        self._train(directory, wanted)
                    except OSError as error:
                        raise MosaicDataError(
                            f"prepare: cannot write {directory}: {error.strerror or error}"
                        ) from error
        # As it is written: a path loses its "./", without which it may be taken for a name on the
        # hub.
        return options.train_tokenizer

    def _train(self, directory: Path, wanted: Mapping[str, Any]) -> None:
        pieces = pieces_of(self._options)
        units = plan(pieces, bytes_of_unit(sum(piece.size for piece in pieces)), self._options)
        logger.info("training a tokenizer of %d entries", self._options.entries)
        with tempfile.TemporaryDirectory(
            dir=directory.parent, prefix=f".{directory.name}.", ignore_cleanup_errors=True
        ) as folder:
            made = Path(folder, directory.name)
            made.mkdir()
            facts = train_tokenizer(units, made, self._options)
            (made / FILE_NAME).write_text(manifest_text(wanted, facts))
            flush_to_disk(made)
            os.rename(made, directory)


def _check_names(options: PrepareOptions) -> None:
    """Check that compression and hashes are ones that mosaicml-streaming knows."""
    from streaming.base.compression import get_compressions, is_compression
    from streaming.base.hashing import get_hashes

    if options.compression is not None and not is_compression(options.compression):
        known = ", ".join(sorted(name for name in get_compressions() if ":" not in name))
        raise MosaicDataError(
            f"prepare: compression = {options.compression!r} is not one of {known} (some with a "
            f'level, as "zstd:7")'
        )
    for name in options.hashes:
        if name not in get_hashes():
            known = ", ".join(sorted(get_hashes()))
            raise MosaicDataError(f"prepare: hashes = {name!r} is not one of {known}")


def _input_options(options: PrepareOptions) -> dict[str, Any]:
    return {
        **{name: getattr(options, name) for name in _READING},
        "input": [redacted(name) for name in options.inputs],
        "dataset_kwargs": dict(options.dataset_kwargs),
    }


def _data_options(options: PrepareOptions, tokenizer: str | Path | None) -> dict[str, Any]:
    kwargs = options.tokenizer_kwargs
    return {
        **_input_options(options),
        **{name: getattr(options, name) for name in _WRITING},
        "hashes": sorted(options.hashes),
        "tokenizer": None if tokenizer is None else file_identity(tokenizer, kwargs),
    }


def _name_rejected(done: Done, named: int) -> int:
    unit, note = done
    files = {piece.file.name: piece.file for piece in unit.pieces}
    for name, kind, number, why in note["rejected"]:
        if named < NAMED:
            logger.warning("left out: %s", RejectedInput(files[name], kind, number, why))
        named += 1
        if named == NAMED:
            logger.warning("further input that is left out is counted, but not named")
    return named


def _facts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a split holds, out of its parts of the units' notes."""
    shards = [shard for part in parts for shard in part["shards"]]
    return {
        **{name: sum(part[name] for part in parts) for name in _COUNTS},
        "samples": sum(shard["samples"] for shard in shards),
        "shards": len(shards),
        "largest": max((part["largest"] for part in parts), default=-1),
        "document_lengths": _length_summary(parts),
    }


def _length_summary(parts: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Median, 90th percentile (both rounded) and longest of the documents' lengths.

    In tokens with the one that ends a document, or in bytes of text.
    """
    counts: Counter[int] = Counter()
    for part in parts:
        counts.update(dict(part["lengths"]))
    lengths = sorted(counts)
    seen = np.cumsum([counts[length] for length in lengths])

    def below(share: float) -> int:
        return lengths[np.searchsorted(seen, share * seen[-1])] if lengths else 0

    return {
        "median": below(0.5),
        "percentile_90": below(0.9),
        "longest": max((part["longest"] for part in parts), default=0),
    }


def _refuse_nothing(facts: Mapping[str, Mapping[str, Any]], options: PrepareOptions) -> None:
    met = {name: sum(f[name] for f in facts.values()) for name in ("skipped", "empty", "documents")}
    if not any(fact["samples"] for fact in facts.values()):
        raise MosaicDataError(
            f"prepare: input {', '.join(map(redacted, options.inputs))} holds no text to train on "
            f"({met['skipped']} parts are not documents, {met['empty']} documents are empty)"
        )
    for split, fact in facts.items():
        if not fact["samples"]:
            raise MosaicDataError(
                f"prepare: split_validation = {options.split_validation} leaves nothing for "
                f"{split}, of {met['documents']} documents; choose another share"
            )


def _announce(report: PrepareReport, options: PrepareOptions, selection: str) -> None:
    what = f"{report.samples:,} rows" if options.form == "rows" else f"{report.samples:,} samples"
    if options.seq_len is not None:
        what += f" of {options.seq_len + 1}"
    if report.tokens:
        what = f"{report.tokens:,} tokens in {what}"
    logger.info(
        "%s %s: %s from %s documents (left out: %d that are not documents, %d empty)",
        "prepared" if report.created else "already prepared, nothing to do:",
        report.output,
        what,
        f"{report.documents:,}",
        report.skipped,
        report.empty,
    )
    for split, facts in report.splits.items():
        lengths = facts["document_lengths"]
        logger.info(
            "%sdocument lengths in %s: median about %s, 90 %% up to about %s, longest %s",
            f"{split}: " if split else "",
            "bytes" if options.form == "text" else "tokens",
            f"{lengths['median']:,}",
            f"{lengths['percentile_90']:,}",
            f"{lengths['longest']:,}",
        )
    if not report.created and _input_changed(options, selection):
        logger.warning(
            "the files that %s matches have changed since %s was prepared; it is used as it is. "
            "Delete it to prepare it again",
            ", ".join(map(redacted, options.inputs)),
            report.output,
        )


def _input_changed(options: PrepareOptions, selection: str) -> bool:
    """Whether the files are others now. That all are gone is no change: sources may be deleted.

    Stores and data sets are not listed again: that may take long, or cost money.
    """
    if options.input_format == "dataset" or any("://" in name for name in options.inputs):
        return False
    try:
        return fingerprint(pieces_of(options)) != selection
    except MosaicDataError:
        return False
