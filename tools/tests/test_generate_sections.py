"""An option has one definition, and it holds in Python, in TOML and on the command line."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mosaic_config import ConfigError, MosaicConfigManager, sections
from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.options import DatasetSection, LoaderSection, StreamOptions
from mosaic_dataloader.util.arguments import checked, parse_bytes
from mosaic_prepare import PrepareOptions
from tools import generate_sections
from tools.generate_sections import LEFT_OUT, SECTIONS

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
    ours = {field.name: field for field in dataclasses.fields(getattr(sections, SECTIONS[cls]))}
    for field in dataclasses.fields(cls):
        if (cls, field.name) in LEFT_OUT:
            assert field.name not in ours
            continue
        found: Any = ours.pop(field.name)
        default: Any = field.default
        if isinstance(default, tuple):
            assert found.default_factory() == list(default)
        elif isinstance(found.default, str) and isinstance(default, int):
            assert parse_bytes(field.name, found.default) == default
        elif default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            assert found.default is None
        else:
            assert found.default == default
    assert not ours


def test_what_is_left_out_or_has_another_text_is_an_option() -> None:
    for cls, name in [*generate_sections.LEFT_OUT, *generate_sections.TEXTS]:
        assert name in {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize(
    ("cls", "option"), [(DatasetSection, "shuffle_algo"), (PrepareOptions, "form")]
)
def test_the_check_notices_a_new_choice(
    cls: Any, option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate_sections.main(["--check"]) == 0
    field = cls.__dataclass_fields__[option]
    choices = (*field.metadata["choices"], "py9z")
    monkeypatch.setattr(field, "metadata", {**field.metadata, "choices": choices})
    assert generate_sections.main(["--check"]) == 1
    assert "python tools/generate_sections.py" in capsys.readouterr().err
