"""An option has one definition, and it holds in Python, in TOML and on the command line."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mosaic_config import ConfigError, MosaicConfigManager
from mosaic_config.sections import data
from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.options import DatasetSection, LoaderSection, StreamOptions
from mosaic_dataloader.util.arguments import checked
from tools import generate_sections
from tools.generate_sections import SECTIONS

DATASET = "mosaic_dataloader.dataset"
PLACES = {
    LoaderSection: "mosaic_dataloader",
    DatasetSection: DATASET,
    StreamOptions: f"{DATASET}.streams.a",
}
OPTIONS = [(cls, field) for cls in PLACES for field in dataclasses.fields(cls)]


def beyond(field: "dataclasses.Field[Any]") -> list[Any]:
    """The values next to an option's bounds, outside of them."""
    limits = field.metadata
    values: list[Any] = ["nothing_like_it"] if limits.get("choices") else []
    values += [limits["least"] - 1] if limits.get("least") is not None else []
    values += [limits["above"]] if limits.get("above") is not None else []
    values += [limits["most"] + 1] if limits.get("most") is not None else []
    return values


BOUNDS = [
    pytest.param(cls, field, value, id=f"{PLACES[cls]}.{field.name}={value}")
    for cls, field in OPTIONS
    for value in beyond(field)
]


@pytest.mark.parametrize(("cls", "field", "value"), BOUNDS)
def test_bounds_hold_everywhere(
    cls: type, field: "dataclasses.Field[Any]", value: Any, tmp_path: Path
) -> None:
    size = "str" in str(field.type) and not field.metadata["choices"]  # checked where it is parsed
    if not size:
        with pytest.raises(MosaicDataError, match=f"^{field.name} = "):
            checked(field, field.name, value)
    place = PLACES[cls]
    file = tmp_path / "job.toml"
    if "float" in str(field.type):
        value = float(value)
    written = f'"{value}"' if isinstance(value, str) else str(value)
    head = f'[{DATASET}]\nremote = "data"\n'
    table = f"[{place}]\n" if place != DATASET else ""
    file.write_text(f"{head}{table}{field.name} = {written}\n")
    with pytest.raises(ConfigError) as caught:
        MosaicConfigManager().parse_args(["--config-path", str(file)])
    assert f"{file}: [{place}] {field.name} = {written}: must be " in str(caught.value)
    file.write_text(head)
    option = f"--{place}.{field.name}={value}"
    with pytest.raises(ConfigError, match=f"{field.name}.*must be "):
        MosaicConfigManager().parse_args(["--config-path", str(file), option])


@pytest.mark.parametrize("cls", SECTIONS)
def test_defaults_agree(cls: type) -> None:
    ours = {field.name: field for field in dataclasses.fields(getattr(data, SECTIONS[cls]))}
    for field in dataclasses.fields(cls):
        assert ours.pop(field.name).default == field.default
    assert not ours


def test_the_check_notices_a_new_choice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_sections.main(["--check"]) == 0
    field = DatasetSection.__dataclass_fields__["shuffle_algo"]
    choices = (*field.metadata["choices"], "py9z")
    monkeypatch.setattr(field, "metadata", {**field.metadata, "choices": choices})
    assert generate_sections.main(["--check"]) == 1
    assert "python tools/generate_sections.py" in capsys.readouterr().err
