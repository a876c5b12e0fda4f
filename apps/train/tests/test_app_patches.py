"""Corrections of TorchTitan are made only to the code that they answer."""

import importlib.metadata
from pathlib import Path

import pytest

from mosaic_train import cli


def test_another_torchtitan_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything in the file is looked at."""
    (tmp_path / "empty.toml").touch()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.3")
    assert cli.main(["--config-path", str(tmp_path / "empty.toml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "error: torchtitan 0.2.3 is installed, but mosaic-trainspec corrects the code of "
        "0.2.2: install torchtitan 0.2.2"
    )
