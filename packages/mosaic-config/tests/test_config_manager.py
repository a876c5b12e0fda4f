"""Where the manager meets TorchTitan's, and what it costs to import."""

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torchtitan.config import ConfigManager

from mosaic_config import ConfigError, MosaicConfigManager, MosaicJobConfig, MosaicStream

DATA = '[mosaic_dataloader.dataset]\nremote = "data"\n'
DOCUMENTED = """
[mosaic_dataloader]
name = "text"
num_workers = 0
[mosaic_dataloader.dataset]
shuffle = true
shuffle_seed = 9176
[mosaic_dataloader.dataset.streams.code]
remote = "s3://bucket/code"
local = "/cache/code"
proportion = 0.7
[mosaic_tokenizer]
name = "HuggingFaceTB/SmolLM-1.7B"
[mosaic_tokenizer.kwargs]
model_max_length = 2048
"""


def test_documented_toml_loads_as_it_is(parse: Any) -> None:
    config = parse(DOCUMENTED)
    assert isinstance(config, MosaicJobConfig)
    assert (config.mosaic_dataloader.name, config.mosaic_dataloader.num_workers) == ("text", 0)
    dataset = config.mosaic_dataloader.dataset
    assert (dataset.shuffle, dataset.shuffle_seed) == (True, 9176)
    assert dataset.streams == {"code": MosaicStream("s3://bucket/code", "/cache/code", None, 0.7)}
    assert config.mosaic_tokenizer.name == "HuggingFaceTB/SmolLM-1.7B"
    assert config.mosaic_tokenizer.kwargs == {"model_max_length": 2048}
    assert config.to_dict()["mosaic_dataloader"]["dataset"]["streams"]["code"]["proportion"] == 0.7


def test_is_torchtitan_s_manager(parse: Any) -> None:
    manager = MosaicConfigManager()
    config = manager.parse_args(["--mosaic_dataloader.dataset.local", "x"])
    assert isinstance(manager, ConfigManager)
    assert manager.config is config
    plain = ConfigManager().parse_args([])
    for section, value in plain.to_dict().items():
        assert config.to_dict()[section] == value, "TorchTitan's defaults are kept"


def test_values_are_checked_with_the_command_line_s_in_place(parse: Any, error: Any) -> None:
    assert error(None).startswith("no training data is given; add a table [mosaic_dataloader.")
    text = error(DATA + "max_seq_len = 2048\n", "--training.seq_len", "64")
    assert text.startswith("job.toml: [mosaic_dataloader.dataset] max_seq_len = 2048 differs")
    parse(DATA + "max_seq_len = 64\n", "--training.seq_len", "64")


@dataclass
class CustomDataset:
    column: str = "tokens"
    """Column to read."""


@dataclass
class CustomDataloader:
    dataset: CustomDataset = field(default_factory=CustomDataset)
    speed: int = 1


@dataclass
class CustomTraining:
    seq_len: int = 4096
    extra: list[str] = field(default_factory=list)


@dataclass
class Custom:
    weights: dict[str, float] = field(default_factory=dict)
    limit: "int" = 1  # as in a module with postponed annotations


@dataclass
class CustomJobConfig:
    mosaic_dataloader: CustomDataloader = field(default_factory=CustomDataloader)
    training: CustomTraining = field(default_factory=CustomTraining)
    custom: Custom = field(default_factory=Custom)
    maybe: Custom | None = None


@pytest.fixture
def custom_module(monkeypatch: Any) -> str:
    module = ModuleType("config_of_a_user")
    module.JobConfig = CustomJobConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


@pytest.mark.parametrize("in_toml", [True, False])
def test_custom_config_module_is_merged(
    parse: Any, error: Any, custom_module: str, in_toml: bool
) -> None:
    toml = DOCUMENTED + "[mosaic_dataloader.dataset.streams.text]\nremote = 'x'\nproportion = 1\n"
    toml += "[training]\nextra = ['a']\n[custom.weights]\n'odd name' = 1\n"
    option = [] if in_toml else ["--job.custom_config_module", custom_module]
    toml += f"[job]\ncustom_config_module = '{custom_module}'\n" if in_toml else ""
    config = parse(
        toml, "--mosaic_dataloader.dataset.column=text", "--custom.weights.b", "2", *option
    )
    assert isinstance(config, MosaicJobConfig)
    assert config.job.custom_config_module == custom_module
    loader = config.mosaic_dataloader
    assert (loader.dataset.column, loader.speed, loader.dataset.shuffle) == ("text", 1, True)
    assert list(loader.dataset.streams) == ["code", "text"]
    assert (config.training.seq_len, config.training.extra) == (4096, ["a"])
    assert config.custom.weights == {"odd name": 1.0, "b": 2.0}
    assert "limit = true: must be int" in error(toml + "[custom]\nlimit = true\n", *option)
    assert parse(toml, "--custom.limit", "3", *option).custom.limit == 3
    more = ("--maybe.weights.b", "2", "--maybe.limit", "3", "--maybe.weights.a", "1")
    assert parse(toml, *more, *option).maybe == Custom({"b": 2.0, "a": 1.0}, limit=3)
    assert parse(toml, *more[:2], *option).maybe == Custom({"b": 2.0})
    assert parse(toml, *option).maybe is None
    text = error(toml + "[custom]\nweight = 1\n", *option)
    assert text.startswith('job.toml: [custom] has no key "weight"; did you mean')


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_module.config", 'no module named "no_such_module"'),
        ("textwrap", "has no dataclass named JobConfig"),
    ],
)
def test_custom_config_module_that_cannot_be_used(error: Any, name: str, why: str) -> None:
    assert why in error(DATA, "--job.custom_config_module", name)


def test_missing_import_inside_a_custom_module_is_not_hidden(
    parse: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "config_that_imports.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        parse(DATA, "--job.custom_config_module", "config_that_imports")


def test_tokenizer_warning_only_without_a_mosaic_tokenizer(parse: Any, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        parse(DATA + "[mosaic_tokenizer]\nname = 'x'\n[model]\ntokenizer_path = 'old/path'\n")
    assert "tokenizer_path is deprecated" in caplog.text
    assert "does not exist" not in caplog.text
    with caplog.at_level(logging.WARNING):
        config = parse(DATA + "[model]\nhf_assets_path = 'a'\ntokenizer_path = 'old/path'\n")
    assert config.model.hf_assets_path == "old/path"
    assert "HF assets path old/path does not exist" in caplog.text


def test_old_tokenizer_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    file.touch()
    with pytest.raises(ConfigError, match=r"old tokenizer\.model file"):
        MosaicConfigManager().parse_args(
            ["--mosaic_dataloader.dataset.remote", "x", "--model.hf_assets_path", str(file)]
        )


def test_help_lists_the_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That it loads no library for data is seen where the app starts."""
    file = tmp_path / "job.toml"
    file.write_text(DOCUMENTED)
    with pytest.raises(SystemExit) as stop:
        MosaicConfigManager().parse_args(["--config-path", str(file), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in [
        "--mosaic-dataloader.num-workers INT",
        "--mosaic-dataloader.dataset.shuffle, --mosaic-dataloader.dataset.no-shuffle",
        "--mosaic-dataloader.dataset.streams.NAME.proportion",
        "--mosaic-validation-dataloader.dataset.remote",
        "--mosaic-tokenizer.name",
        "--mosaic-tokenizer.kwargs.KEY",
        "--mosaic-prepare.vocab-size {None}|INT",
        "Worker processes per rank.",
        "--training.steps INT",
    ]:
        assert option in shown, option


def test_home_directories_are_expanded_in_every_path(
    parse: Any, error: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every option that is a path by its name: TorchTitan's, the loader's and those of streams."""
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {
        "job": ("dump_folder", "save_config_file"),
        "profiling": ("save_traces_folder", "save_memory_snapshot_folder"),
        "metrics": ("save_tb_folder",),
        "model": ("hf_assets_path",),
        "checkpoint": ("folder", "initial_load_path"),
        "comm": ("save_traces_folder",),
        "training": ("dataset_path",),
        "validation": ("dataset_path",),
    }
    streams = {"a": {"remote": "~/r", "local": "~root/l"}, "b": {"local": "data~"}}
    dataset = {"streams": streams, "cache_dir": "~"}
    tables: dict[str, Any] = {
        section: {key: f"~/{key}" for key in keys} for section, keys in paths.items()
    }
    config = parse({**tables, "mosaic_dataloader": {"dataset": dataset}})
    for section, keys in paths.items():
        for key in keys:
            assert getattr(getattr(config, section), key) == f"{tmp_path}/{key}"
    found = config.mosaic_dataloader.dataset
    assert (found.streams["a"].remote, found.cache_dir) == (f"{tmp_path}/r", str(tmp_path))
    assert not (found.streams["a"].local or "~").startswith("~")
    assert found.streams["b"].local == "data~"
    # A shell leaves it in the middle of a word.
    (tmp_path / "job.toml").write_text(DATA)
    assert MosaicConfigManager().parse_args(["--config-path=~/job.toml"]).job.config_file == str(
        tmp_path / "job.toml"
    )
    text = error(
        {"mosaic_dataloader": {"dataset": {"streams": {"a": {"local": "~no-such-user/x"}}}}},
        "--job.dump_folder",
        "~no-such-user",
    )
    for part in ("[job] dump_folder = '~no-such-user'", "dataset.streams.a] local"):
        assert part in text
    # Text is left as it is.
    assert parse(DATA, "--job.description", "~").job.description == "~"
