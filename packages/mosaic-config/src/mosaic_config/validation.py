"""Checks of values that need more than one key, or more than a key's type."""

from collections.abc import Iterator

from mosaic_config.errors import ConfigError
from mosaic_config.job_config import MosaicJobConfig
from mosaic_config.schema import dotted, out_of_bounds, place, tables_of
from mosaic_config.sections import MosaicDataloader, MosaicDataset, MosaicPrepare, MosaicStream

TRAINING = "mosaic_dataloader"
VALIDATION = "mosaic_validation_dataloader"


def validate(config: MosaicJobConfig) -> None:
    """Check the values of the mosaic sections against each other and against TorchTitan's.

    Raises:
        ConfigError: The configuration has mistakes; one line for each.
    """
    training, validation = config.mosaic_dataloader, config.mosaic_validation_dataloader
    problems = [
        *_data_given(config),
        *_loader(TRAINING, training),
        *_row_length(TRAINING, training, "training", config.training.seq_len),
        *_loader(VALIDATION, validation),
        *_row_length(VALIDATION, validation, "validation", config.validation.seq_len),
        *_prepare(config.mosaic_prepare, config.mosaic_tokenizer.name),
    ]
    for path, table in tables_of(config):
        problems += out_of_bounds(place(path), type(table), vars(table)).values()
    if problems:
        raise ConfigError.of_file(problems, config.job.config_file)


def _has_data(dataset: MosaicDataset) -> bool:
    return bool(dataset.streams or dataset.remote or dataset.local)


def _data_given(config: MosaicJobConfig) -> Iterator[str]:
    if not _has_data(config.mosaic_dataloader.dataset):
        yield (
            f"no training data is given; add a table [{TRAINING}.dataset] with remote or local, "
            f"or [{TRAINING}.dataset.streams.<name>] for each stream"
        )
    if config.validation.enable and not _has_data(config.mosaic_validation_dataloader.dataset):
        yield (
            f"[validation] enable = true, but no validation data is given; add a table "
            f"[{VALIDATION}.dataset] with streams, remote or local, or set enable = false"
        )


def _loader(section: str, loader: MosaicDataloader) -> Iterator[str]:
    if loader.num_workers == 0 and loader.persistent_workers:
        yield (
            f"[{section}] persistent_workers = true needs num_workers of at least 1; or remove it"
        )
    if section == VALIDATION and loader.skip_samples > 0:
        yield (
            f"[{VALIDATION}] skip_samples = {loader.skip_samples} is for training: a validation "
            "pass always uses every sample; remove it"
        )
    if section == VALIDATION:
        for key in ("stages", "skip", "max_repeats"):
            if getattr(loader.dataset, key):
                yield (
                    f"[{VALIDATION}.dataset] {key} is for training: a validation pass reads every "
                    "sample once; remove it"
                )
    yield from _dataset(f"{section}.dataset", loader.dataset)


def _dataset(place: str, dataset: MosaicDataset) -> Iterator[str]:
    if dataset.streams:
        for key in ("remote", "local"):
            if getattr(dataset, key):
                yield (
                    f"[{place}] has both {key} and streams; "
                    f"move {key} into a table [{place}.streams.<name>]"
                )
    for name, stream in dataset.streams.items():
        where = f"[{place}.streams.{dotted((name,))}]"
        if not (stream.remote or stream.local):
            yield f"{where} has neither remote nor local; give at least one of them"
    if dataset.packing and dataset.batching_method != "random":
        yield (
            f'[{place}] packing = true needs batching_method = "random", not '
            f'"{dataset.batching_method}": a packed row may hold documents of several streams'
        )
    if dataset.packing_lanes is not None and not dataset.packing:
        yield (
            f"[{place}] packing_lanes = {dataset.packing_lanes} has no meaning without packing; "
            f"set packing = true or remove it"
        )
    yield from _weight_problems(place, dataset)


def _row_length(
    section: str, loader: MosaicDataloader, trainer: str, seq_len: int
) -> Iterator[str]:
    given = loader.dataset.max_seq_len
    if given is not None and given != seq_len:
        yield (
            f"[{section}.dataset] max_seq_len = {given} differs from {trainer}.seq_len = "
            f"{seq_len}; make them equal or remove max_seq_len"
        )


def _prepare(prepare: MosaicPrepare, tokenizer: str | None) -> Iterator[str]:
    if prepare.input and not prepare.output:
        yield "[mosaic_prepare] has an input but no output; give the directory to write shards to"
    if prepare.output and not prepare.input:
        yield (
            "[mosaic_prepare] has an output but no input; "
            'give a glob of text files or "python-stdlib"'
        )
    tokenized = prepare.form != "text"
    if prepare.input and tokenized and not prepare.train_tokenizer and not tokenizer:
        yield (
            "[mosaic_prepare] has nothing to tokenize with; "
            "set mosaic_tokenizer.name or mosaic_prepare.train_tokenizer"
        )
    if not prepare.input and not prepare.output and prepare != MosaicPrepare():
        yield "[mosaic_prepare] has no input, so nothing is prepared; give one, or remove the table"


def _weight_problems(place: str, dataset: MosaicDataset) -> Iterator[str]:
    """Yield a sentence for each weight that contradicts another (mosaicml-streaming's rules)."""
    kinds = {name: _weights(stream) for name, stream in dataset.streams.items()}
    for name, weights in kinds.items():
        if len(weights) > 1:
            yield (
                f"[{place}.streams.{dotted((name,))}] has {' and '.join(weights)}; "
                "a stream takes only one of proportion, repeat and choose"
            )
    relative = [name for name, weights in kinds.items() if "proportion" in weights]
    absolute = [name for name, weights in kinds.items() if "proportion" not in weights]
    if relative and absolute:
        other = absolute[0]
        has = " and ".join(kinds[other]) or "no proportion"
        yield (
            f"[{place}.streams.{dotted((other,))}] has {has} but "
            f"[{place}.streams.{dotted((relative[0],))}] has proportion; "
            "give every stream a proportion, or none"
        )
    if relative and not absolute and not any(s.proportion for s in dataset.streams.values()):
        yield f"[{place}.streams] proportions are all 0; give at least one stream more than 0"
    counted = [name for name in absolute if kinds[name]]
    if counted and not relative and dataset.epoch_size is not None:
        yield (
            f"[{place}] epoch_size cannot be kept: [{place}.streams.{dotted((counted[0],))}] has "
            f"{kinds[counted[0]][0]}, which fixes a number of samples; remove one of them"
        )


def _weights(stream: MosaicStream) -> list[str]:
    return [key for key in ("proportion", "repeat", "choose") if getattr(stream, key) is not None]
