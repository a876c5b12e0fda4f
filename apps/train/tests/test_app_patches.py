"""Corrections of TorchTitan are made only to the code that they answer."""

import importlib
import importlib.metadata
import inspect
import pkgutil
from pathlib import Path

import pytest

import mosaic_trainspec.torchtitan_patches as patches
from mosaic_train import cli


def test_every_patch_names_what_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.toml"
    empty.touch()
    patches.check_torchtitan()
    found = pkgutil.walk_packages(patches.__path__, f"{patches.__name__}.")
    modules = [importlib.import_module(each.name) for each in found]
    assert {answer for module in modules for answer in module.ANSWERS} == set(patches.ANSWERS)
    for module in modules:
        assert "can go once" in " ".join(inspect.getsource(module).split()), module

    def told() -> str:
        assert cli.main(["--config-path", str(empty)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    # Each line of each patch is compared, before anything in the file is looked at.
    for answer in patches.ANSWERS:
        with monkeypatch.context() as patch:
            patch.setattr(patches, "ANSWERS", (*patches.ANSWERS, f"{answer} # as it was"))
            line = told()
        place, text = answer.split(": ", 1)
        path, number = place.split(":")
        assert f"line {number} of torchtitan/{path} is {text!r} and not " in line
        assert line.endswith("reinstall torchtitan 0.2.2")
    with monkeypatch.context() as patch:
        patch.setattr(patches, "ANSWERS", ("no/such/file.py:1: x = 1",))
        assert "line 1 of torchtitan/no/such/file.py is ''" in told()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.3")
    assert told() == (
        "error: torchtitan 0.2.3 is installed, but mosaic-trainspec corrects the code of "
        "0.2.2: install torchtitan 0.2.2"
    )
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.2+cu130")
    patches.check_torchtitan()
