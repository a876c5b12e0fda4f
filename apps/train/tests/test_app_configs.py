"""The shipped configurations are whole and can be continued."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mosaic_config import MosaicConfigManager
from mosaic_trainspec.checks.machine import check_device
from mosaic_trainspec.checks.model import find_model
from mosaic_trainspec.checks.parallel import check_batches, check_heads, check_sequence, find_layout

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RANKS = {"debug.toml": 1, "mosaic_job.toml": 8, "llama3_8b_multinode.toml": 32}


def test_all_are_known() -> None:
    assert {path.name for path in CONFIGS.glob("*.toml")} == set(RANKS)


@pytest.mark.parametrize("name", RANKS)
def test_it_parses_and_fits_its_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = CONFIGS / name
    config = MosaicConfigManager().parse_args(["--config-path", str(path)])
    assert config.checkpoint.enable
    assert not config.checkpoint.last_save_model_only
    gpus = RANKS[name] > 1
    monkeypatch.setattr("mosaic_trainspec.checks.machine.no_accelerator", lambda: not gpus)
    model = find_model(config)
    check_device(config, model)
    check_batches(config, find_layout(config, RANKS[name]))
    check_heads(config, model)
    check_sequence(config)


def test_first_run_trains_on_what_it_prepares() -> None:
    config: Any = MosaicConfigManager().parse_args(["--config-path", str(CONFIGS / "debug.toml")])
    prepare = config.mosaic_prepare
    streams = config.mosaic_dataloader.dataset.streams
    assert prepare.input == "python-stdlib"
    assert [stream.local for stream in streams.values()] == [prepare.output]
    assert prepare.train_tokenizer == config.mosaic_tokenizer.name
    assert (prepare.seq_len or config.training.seq_len) == config.training.seq_len
    # Continued with more steps, the learning rates must not have been others.
    assert config.lr_scheduler.total_steps > config.training.steps


def test_slurm_script_starts_a_shipped_configuration() -> None:
    script = (CONFIGS / "llama3_8b.slurm").read_text()
    assert "apps/train/configs/llama3_8b_multinode.toml" in script
    assert "apps/train/__main__.py" in script


def test_preparation_options_are_those_of_the_preparer() -> None:
    """The packages do not know one another; their names and defaults must agree all the same."""
    from mosaic_config import MosaicPrepare
    from mosaic_prepare import PrepareOptions

    theirs = {field.name: field for field in dataclasses.fields(PrepareOptions)}
    ours = vars(MosaicPrepare())
    # Training names its tokenizer in a section of its own.
    assert set(theirs) - set(ours) == {"tokenizer", "tokenizer_kwargs"}
    assert set(ours) <= set(theirs)
    common: dict[str, Any] = {"input": "x", "output": "y", "tokenizer": "z", "seq_len": 1}
    given = PrepareOptions(**common)
    sizes = {name: ours[name] for name in ours if name.endswith("_bytes")}
    read = PrepareOptions(**common, **sizes)
    for name in set(ours) - {"input", "output", "seq_len"}:
        default = getattr(given, name)
        value = getattr(read, name) if name in sizes else ours[name]
        assert value == (list(default) if isinstance(default, tuple) else default), name
