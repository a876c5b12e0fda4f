"""Values that contradict each other or are out of range."""

from collections.abc import Callable
from typing import Any

import pytest

from mosaic_config import ConfigError, MosaicJobConfig, MosaicStream, validate

Change = Callable[[MosaicJobConfig], object]
TRAIN = "[mosaic_dataloader.dataset"


def config_with(**streams: MosaicStream) -> MosaicJobConfig:
    config = MosaicJobConfig()
    config.mosaic_dataloader.dataset.streams = streams
    return config


def put(path: str, value: object) -> Change:
    def change(config: Any) -> None:
        *sections, key = path.split(".")
        for section in sections:
            config = config[section] if isinstance(config, dict) else getattr(config, section)
        assert hasattr(config, key)
        setattr(config, key, value)

    return change


LOADER, DATASET = "mosaic_dataloader", "mosaic_dataloader.dataset"
VALIDATION = "mosaic_validation_dataloader"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ([put(f"{DATASET}.remote", "x")], [f"{TRAIN}]", "both remote and streams"]),
        ([put(f"{LOADER}.skip_samples", -1)], ["[mosaic_dataloader] skip_samples = -1", "0"]),
        (
            [put(f"{VALIDATION}.skip_samples", 8)],
            ["[mosaic_validation_dataloader] skip_samples = 8", "for training", "remove it"],
        ),
        (
            [
                put(f"{VALIDATION}.dataset.skip", ["0:8"]),
                put(f"{VALIDATION}.dataset.max_repeats", 2.0),
            ],
            [
                "[mosaic_validation_dataloader.dataset] skip is for training",
                "[mosaic_validation_dataloader.dataset] max_repeats is for training",
            ],
        ),
        ([put(f"{DATASET}.local", "x")], [f"{TRAIN}]", "both local and streams"]),
        ([put(f"{DATASET}.streams.a.remote", None)], [f"{TRAIN}.streams.a]", "neither remote"]),
        (
            [put(f"{DATASET}.streams.a.repeat", 2.0)],
            [f"{TRAIN}.streams.a]", "proportion and repeat", "only one of"],
        ),
        (
            [put(f"{DATASET}.streams.b.proportion", None)],
            [f"{TRAIN}.streams.b] has no proportion", f"{TRAIN}.streams.a] has proportion"],
        ),
        (
            [put(f"{DATASET}.streams.b.proportion", None), put(f"{DATASET}.streams.b.choose", 1)],
            [f"{TRAIN}.streams.b] has choose", "or none"],
        ),
        ([put(f"{DATASET}.streams.b.proportion", -1.0)], ["streams.b] proportion = -1.0", "0"]),
        ([put(f"{DATASET}.streams.b.proportion", float("nan"))], ["finite"]),
        (
            [put(f"{DATASET}.streams.{s}.proportion", 0.0) for s in "ab"],
            [f"{TRAIN}.streams] proportions are all 0"],
        ),
        (
            [put(f"{DATASET}.streams.{s}.proportion", None) for s in "ab"]
            + [put(f"{DATASET}.streams.b.repeat", 2.0), put(f"{DATASET}.epoch_size", "1k")],
            [f"{TRAIN}] epoch_size", "streams.b] has repeat"],
        ),
        ([put(f"{DATASET}.streams.a.download_timeout", 0.0)], ["download_timeout = 0.0", "above"]),
        ([put(f"{DATASET}.packing_lanes", 8)], [f"{TRAIN}] packing_lanes = 8", "packing = true"]),
        (
            [put(f"{DATASET}.packing", True), put(f"{DATASET}.packing_lanes", 0)],
            ["packing_lanes = 0", "at least 1"],
        ),
        (
            [put(f"{DATASET}.packing", True), put(f"{DATASET}.batching_method", "per_stream")],
            [f"{TRAIN}] packing = true", 'not "per_stream"'],
        ),
        ([put(f"{DATASET}.shuffle_seed", -1)], [f"{TRAIN}] shuffle_seed = -1", "at least 0"]),
        ([put(f"{DATASET}.num_canonical_nodes", 0)], ["num_canonical_nodes = 0", "at least 1"]),
        ([put(f"{LOADER}.num_workers", -1)], ["[mosaic_dataloader] num_workers = -1"]),
        (
            [put(f"{LOADER}.num_workers", 1), put(f"{LOADER}.prefetch_factor", 0)],
            ["prefetch_factor = 0: must be at least 1"],
        ),
        ([put(f"{LOADER}.persistent_workers", True)], ["persistent_workers", "num_workers"]),
        ([put(f"{DATASET}.max_seq_len", 1024)], [f"{TRAIN}] max_seq_len = 1024", "training.seq"]),
        ([put(f"{DATASET}.streams", {})], ["no training data", f"{TRAIN}]", "remote or local"]),
        ([put("validation.enable", True)], ["[validation] enable", f"[{VALIDATION}.dataset]"]),
        (
            [put(f"{VALIDATION}.dataset.local", "x"), put(f"{VALIDATION}.dataset.max_seq_len", 8)],
            [f"[{VALIDATION}.dataset] max_seq_len = 8", "validation.seq_len = 2048"],
        ),
        ([put(f"{VALIDATION}.num_workers", -1)], [f"[{VALIDATION}] num_workers = -1"]),
        ([put(f"{DATASET}.download_timeout", 1e9)], ["download_timeout = 1000000000.0", "at most"]),
        ([put(f"{DATASET}.download_timeout", float("inf"))], ["must be a finite number"]),
        ([put("mosaic_prepare.input", "*.txt")], ["[mosaic_prepare] has an input but no output"]),
        ([put("mosaic_prepare.output", "x")], ["[mosaic_prepare] has an output but no input"]),
        (
            [put("mosaic_prepare.input", "*.txt"), put("mosaic_prepare.output", "x")],
            ["nothing to tokenize with", "mosaic_tokenizer.name"],
        ),
        ([put("mosaic_prepare.train_tokenizer", "x")], ["[mosaic_prepare] has no input"]),
        ([put("mosaic_prepare.processes", 0)], ["[mosaic_prepare] processes = 0", "at least 1"]),
    ],
)
def test_refused(changes: list[Change], parts: list[str]) -> None:
    config = config_with(a=MosaicStream("r", proportion=1.0), b=MosaicStream("s", proportion=2.0))
    validate(config)
    for change in changes:
        change(config)
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert len(str(caught.value).splitlines()) == 1
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        [put(f"{DATASET}.max_seq_len", 1024), put("training.seq_len", 1024)],
        [put(f"{LOADER}.num_workers", 2), put(f"{LOADER}.persistent_workers", True)],
        [put(f"{DATASET}.streams.a.proportion", 0.0)],
        [put("validation.enable", True), put(f"{VALIDATION}.dataset.local", "x")],
        [put(f"{DATASET}.streams", {}), put(f"{DATASET}.local", "x")],
        [put(f"{DATASET}.epoch_size", 100)],
        [put(f"{DATASET}.packing", True), put(f"{DATASET}.packing_lanes", 8)],
        [put("mosaic_tokenizer.kwargs", {"num_workers": -1})],
    ],
)
def test_accepted(changes: list[Change]) -> None:
    config = config_with(a=MosaicStream("r", proportion=1.0), b=MosaicStream("s", proportion=2.0))
    for change in changes:
        change(config)
    validate(config)


def test_the_file_is_named_for_each_of_several_problems() -> None:
    config = config_with(a=MosaicStream(repeat=-1.0))
    config.job.config_file = "job.toml"
    with pytest.raises(ConfigError) as caught:
        validate(config)
    assert len(caught.value.problems) == 2
    assert all(line.startswith("job.toml: [mosaic_") for line in caught.value.problems)
