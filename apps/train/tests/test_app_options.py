"""What the launcher says of options without effect, of the dump folder and of its disk."""

import errno
import shutil
import subprocess
import sys
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mosaic_config import MosaicJobConfig
from mosaic_train import run_lock
from mosaic_train.checks.disk import check_disk, check_dump_folder
from mosaic_train.errors import TrainError
from mosaic_train.rank import explain_full_disk
from mosaic_train.run_lock import lock_folder
from mosaic_train.setup import check_unused
from mosaic_trainspec.checks.model import MetaModel
from mosaic_trainspec.checks.report import Report

APP = Path(__file__).resolve().parent.parent


def configuration(**options: Any) -> MosaicJobConfig:
    """The defaults, with `section__key = value` changed."""
    config = MosaicJobConfig()
    config.model.flavor = "debugmodel"
    for option, value in options.items():
        *sections, key = option.split("__")
        setattr(attrgetter(".".join(sections))(config), key, value)
    return config


def test_options_of_torchtitan_that_have_no_effect_here() -> None:
    report = Report()
    check_unused(configuration(), report)
    assert report.warnings == []
    check_unused(
        configuration(
            training__dataset="c4",
            training__dataloader__num_workers=4,
            validation__dataset_path="x",
            memory_estimation__enable=True,
            fault_tolerance__enable=True,
        ),
        report,
    )
    (line,) = report.errors
    assert line.startswith("fault_tolerance.enable = true has no effect in this trainer")
    told = " ".join(report.warnings)
    assert len(report.warnings) == 4
    for expected in (
        "training.dataset = 'c4' has no effect here: the data are those of [mosaic_dataloader",
        "training.dataloader.num_workers = 4 has no effect here",
        "validation.dataset_path = 'x' has no effect here",
        "memory_estimation.enable = True has no effect here",
    ):
        assert expected in told


HOLDER = """
import sys
sys.path.insert(0, sys.argv[1])
from mosaic_train.run_lock import lock_folder
lock = lock_folder(sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_dump_folder_belongs_to_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_TIMEOUT", 0.2)
    folder = tmp_path / "deep" / "out"
    config = configuration(job__dump_folder=str(folder))
    check_dump_folder(config)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(APP), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrainError, match=f"in use by another run .process {holder.pid} on "):
            check_dump_folder(config)
        with pytest.raises(TrainError, match="in use by another run"):
            lock_folder(str(folder))
        # Another folder, and a dry run, are free.
        check_dump_folder(configuration(job__dump_folder=str(tmp_path / "other")))
        config.comm.mode = "fake_backend"
        check_dump_folder(config)
        config.comm.mode = "default"
    finally:
        holder.kill()
        holder.wait()
    # Killed, it holds nothing.
    check_dump_folder(config)


def test_a_dump_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainError, match=r"job.dump_folder .*file/out: it cannot be made"):
        check_dump_folder(configuration(job__dump_folder=str(tmp_path / "file" / "out")))
    (tmp_path / "checkpoint").write_text("")
    config = configuration(job__dump_folder=str(tmp_path), checkpoint__enable=True)
    with pytest.raises(TrainError, match=r"checkpoint.folder 'checkpoint': .* not a directory"):
        check_dump_folder(config)


def test_a_disk_that_is_too_small_for_the_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A billion parameters are 12 GB in full and 4 GB as a model alone, 2 in bfloat16."""
    sketch = MetaModel(10**9, {})

    def warned(free: float, machines: int = 1, **options: Any) -> list[str]:
        usage = SimpleNamespace(free=int(free * 1e9))
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        options = {"checkpoint__enable": True, "checkpoint__last_save_model_only": False} | options
        report = Report()
        config = configuration(job__dump_folder=str(tmp_path), **options)
        check_disk(config, sketch, machines, report)
        return report.warnings

    one: dict[str, Any] = {"training__steps": 100}
    assert warned(12.1, **one) == []
    (line,) = warned(11.9, **one)
    assert "has 11.9 GB of room, but a checkpoint of 1.00 billion parameters at 12 bytes" in line
    assert "takes 12.0 GB, and room for 1 is needed" in line
    assert warned(6.1, machines=2, **one) == []
    assert warned(0.1, checkpoint__load_only=True, **one) == []
    assert warned(0.1, checkpoint__enable=False, **one) == []
    assert warned(4.1, checkpoint__last_save_model_only=True, **one) == []
    assert warned(3.9, checkpoint__last_save_model_only=True, **one) != []
    half: dict[str, Any] = {
        "checkpoint__last_save_model_only": True,
        "checkpoint__export_dtype": "bfloat16",
    }
    assert warned(2.1, **half, **one) == []

    many: dict[str, Any] = {"training__steps": 1000, "checkpoint__interval": 300}
    assert warned(48.1, checkpoint__keep_latest_k=0, **many) == []
    (line,) = warned(47.9, checkpoint__keep_latest_k=0, **many)
    assert "room for 4 is needed" in line
    assert "after 3 of them; choose" in line
    assert line.endswith("or lower checkpoint.keep_latest_k")
    assert warned(36.1, checkpoint__keep_latest_k=2, **many) == []
    # Two are there already, of which one goes.
    for step in (300, 600):
        (tmp_path / "checkpoint" / f"step-{step}").mkdir(parents=True)
        (tmp_path / "checkpoint" / f"step-{step}" / ".metadata").write_text("")
    assert warned(12.1, checkpoint__keep_latest_k=2, **many) == []
    assert warned(24.1, checkpoint__keep_latest_k=0, **many) == []
    assert warned(23.9, checkpoint__keep_latest_k=0, **many) != []


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    full = OSError(errno.ENOSPC, "No space left on device", "/disk/step-3/__0_0.distcp")
    wrapped = CheckpointException("write", {1: (full, None)})  # type: ignore[dict-item]
    line = explain_full_disk(wrapped, "out")
    assert line is not None
    assert "no space left on the disk of /disk/step-3/__0_0.distcp" in line
    try:
        try:
            raise full
        except OSError as error:
            raise RuntimeError("cannot save") from error
    except RuntimeError as error:
        assert explain_full_disk(error, "out") == line
    torchs = RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")
    assert explain_full_disk(torchs, str(tmp_path)) is None
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    line = explain_full_disk(torchs, str(tmp_path))
    assert line is not None
    assert f"on the disk of {tmp_path}" in line
    assert explain_full_disk(ValueError("another"), str(tmp_path)) is None
