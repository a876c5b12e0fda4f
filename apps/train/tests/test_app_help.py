"""Help is short, and leads to every option."""

import dataclasses
import os
import signal
import sys
from typing import Any

import pytest

from mosaic_config import MosaicJobConfig
from mosaic_train import cli
from mosaic_train.cli import SECTIONS


def test_help_is_short_and_leads_to_every_option(
    app: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(SECTIONS) == {field.name for field in dataclasses.fields(MosaicJobConfig)}

    def told(*arguments: str) -> str:
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    for short in (told("--help"), told("-h")):
        assert len(short.splitlines()) < 64
        for section, line in SECTIONS.items():
            assert section in short
            assert line in short
    assert "  training                       17  " in short
    everything = told("--help-all")
    for option in ("--training.steps INT", "streams.NAME.proportion", "--nproc-per-node N"):
        assert option in everything
    path = str(app.config(("steps = 2", "steps = 321")))
    for arguments in (["--help", "training"], ["--help=training"]):
        part = told("--config-path", path, *arguments)
        assert "--training.steps INT" in part
        assert "321" in part
        assert "--job." not in part
        assert len(part.splitlines()) < 100
    streams = told("--help", "mosaic-dataloader", "--config-path", path)
    assert "--mosaic-dataloader.dataset.streams.NAME.proportion" in streams
    assert sum(len(told("--help", section)) for section in SECTIONS) >= 0.9 * len(everything)

    assert cli.main(["--help", "trainning"]) == 2
    err = capsys.readouterr().err
    assert err == "error: --help trainning: there is no such section; did you mean training?\n"


@pytest.mark.parametrize("flag", ["--help", "--check"])
def test_a_reader_that_has_left(
    app: Any, flag: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main([flag, "--config-path", str(app.config())]) == 128 + signal.SIGPIPE
        assert capfd.readouterr().err == ""
