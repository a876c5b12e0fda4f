"""Mistakes in what the override is given: one line each, with what was meant."""

import inspect
import sys
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.validate import Validator
from torchtitan.config.override import OverrideConfig, apply_overrides
from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
from torchtitan.models.llama3.config_registry import llama3_debugmodel

from mosaic_dataloader import (
    MosaicDataError,
    MosaicParallelAwareDataloader,
    StreamingTextDataset,
)
from mosaic_titan import (
    MosaicDataLoader,
    MosaicMetricsProcessor,
    MosaicTokenizer,
    MosaicValidator,
    use_mosaic,
)


def test_the_options_are_the_loaders() -> None:
    """Names and defaults, so that none can be missing or differ."""
    given = {"tokenizer", "seq_len", "positions", "self"}
    runtime = {"dataset", "dp_rank", "dp_world_size", "batch_size", "num_nodes", "confirm_batches"}
    theirs: dict[str, Any] = {}
    for function in (StreamingTextDataset.__init__, MosaicParallelAwareDataloader.__init__):
        parameters = inspect.signature(function).parameters.values()
        theirs |= {p.name: p.default for p in parameters}
    theirs = {name: value for name, value in theirs.items() if name not in given | runtime}
    config = MosaicDataLoader.Config()
    own = {f.name: getattr(config, f.name) for f in fields(config)}
    own = {name: own[name] for name in own if name not in ("dataset", "dataset_path")}
    assert own == theirs | {"streams": {}}


def applied(**options: Any) -> Any:
    config = llama3_debugmodel()
    apply_overrides(OverrideConfig(imports=[("mosaic_titan.use_mosaic", options)]), config)
    return config


def test_one_override_replaces_four_parts(tmp_path: Path) -> None:
    file = tmp_path / "data.toml"
    file.write_text(
        """
        [mosaic_dataloader]
        num_workers = 2
        [mosaic_dataloader.dataset]
        shuffle = true
        download_timeout = 9
        [mosaic_dataloader.dataset.streams.web]
        local = "/data/web"
        [mosaic_tokenizer]
        name = "/data/tokenizer"
        [mosaic_validation_dataloader.dataset]
        local = "/data/val"
        """
    )
    config = applied(
        config_file=str(file),
        streams={"code": {"local": "/data/code"}},
        mosaic_dataloader={"dataset": {"shuffle_seed": 3}},
    )
    assert isinstance(config.tokenizer, MosaicTokenizer.Config)
    assert config.tokenizer.name == "/data/tokenizer"
    assert isinstance(config.dataloader, MosaicDataLoader.Config)
    assert config.dataloader.shuffle and config.dataloader.shuffle_seed == 3
    assert config.dataloader.num_workers == 2
    assert set(config.dataloader.streams) == {"web", "code"}
    assert isinstance(config.metrics, MosaicMetricsProcessor.Config)
    assert config.metrics.log_freq == llama3_debugmodel().metrics.log_freq
    assert isinstance(config.validator, MosaicValidator.Config)
    assert config.validator.steps == 10 and config.validator.freq == 5
    assert config.validator.dataloader.local == "/data/val"
    # Without data for it, a validator that is off stays torchtitan's.
    plain = applied(streams={"web": {"local": "/data/web"}})
    assert type(plain.validator) is Validator.Config
    assert typing.get_type_hints(MosaicDataLoader.Config)["streams"] == dict[str, dict[str, Any]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "use_mosaic: there is no section; give config_file, streams"),
        ({"config_file": "/no/such.toml"}, "cannot read config_file '/no/such.toml' (No such file"),
        ({"mosaic_dataloder": {}}, "[mosaic_dataloder] is not a section of mosaic_titan; did you"),
        ({"training": {}}, "[training] is not a section of mosaic_titan"),
        (
            {"mosaic_dataloader": {"dataset": {"shufle": True}}},
            "[mosaic_dataloader.dataset] has no option 'shufle'; did you mean 'shuffle'?",
        ),
        (
            {"mosaic_dataloader": {"num_worker": 1}},
            "[mosaic_dataloader] has no option 'num_worker'; did you mean 'num_workers'?",
        ),
        (
            {"streams": {"web": {"lokal": "/data"}}},
            "streams.web] has no option 'lokal'; did you mean 'local'?",
        ),
        (
            {"mosaic_dataloader": {"dataset": {"shuffle": "yes"}}},
            "[mosaic_dataloader.dataset] shuffle = 'yes' must be true or false",
        ),
        (
            {"mosaic_dataloader": {"dataset": {"epoch_size": 1.5}}},
            "epoch_size = 1.5 must be an integer or a string",
        ),
        (
            {"mosaic_dataloader": {"dataset": {"skip": "10:20"}}},
            "[mosaic_dataloader.dataset] skip = '10:20' must be a list",
        ),
        ({"mosaic_tokenizer": "gpt2"}, "[mosaic_tokenizer] is 'gpt2'; write a table of options"),
    ],
)
def test_mistakes_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MosaicDataError) as caught:
        use_mosaic(HuggingFaceTextDataLoader.Config(), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_other_mistakes_are_one_line(tmp_path: Path, data: Path) -> None:
    damaged = tmp_path / "damaged.toml"
    damaged.write_text("a = = 1")
    validator = Validator.Config(enable=True)
    built = {"dp_world_size": 1, "dp_rank": 0, "tokenizer": None, "seq_len": 64}
    built["local_batch_size"] = 2
    cases: list[tuple[Any, str]] = [
        (
            lambda: use_mosaic(MetricsProcessor.Config(), config_file=str(damaged)),
            "is not TOML",
        ),
        (
            lambda: use_mosaic(validator, streams={"web": {}}),
            "validator.enable is set, and there is no data for it; add [mosaic_validation",
        ),
        (
            lambda: MosaicTokenizer.Config(name=str(tmp_path)).build(tokenizer_path=""),
            "cannot be loaded",
        ),
        (lambda: MosaicTokenizer.Config().build(tokenizer_path="").encode("x"), "no tokenizer"),
        (lambda: MosaicDataLoader.Config().build(**built), "names no data"),
        (
            lambda: MosaicDataLoader.Config(dataset="c4", local=str(data / "web")).build(**built),
            "dataloader.dataset and dataset_path are for torchtitan's own loader",
        ),
        (
            lambda: MosaicDataLoader.Config(local=str(data / "web"), shuffle_algo="x").build(
                **built
            ),
            "shuffle_algo",
        ),
        (
            lambda: next(
                iter(MosaicDataLoader.Config(local=str(data / "web"), max_repeats=2).build(**built))
            ),
            "max_repeats needs the length of the run",
        ),
    ]
    for act, message in cases:
        with pytest.raises(MosaicDataError) as caught:
            act()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_uncaught_mistake_prints_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    MosaicTokenizer.Config().build(tokenizer_path="")
    sys.excepthook(MosaicDataError, MosaicDataError("change this"), None)
    assert capsys.readouterr().err == "error: change this\n"
    sys.excepthook(ValueError, ValueError("other"), None)
    assert "ValueError: other" in capsys.readouterr().err
    assert issubclass(MosaicDataLoader, BaseDataLoader)
