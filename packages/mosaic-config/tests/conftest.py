import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mosaic_config import ConfigError, MosaicConfigManager, MosaicJobConfig

Parse = Callable[..., MosaicJobConfig]


def to_toml(table: dict[str, Any], path: tuple[str, ...] = ()) -> str:
    """Write nested tables as TOML, every key quoted, so that any text can be a key."""
    plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
    inner = {k: v for k, v in table.items() if isinstance(v, dict)}
    lines = ["[" + ".".join(map(quote, path)) + "]"] if path else []
    lines += [f"{quote(key)} = {value_text(value)}" for key, value in plain.items()]
    return "\n".join([*lines, *(to_toml(v, (*path, k)) for k, v in inner.items())]) + "\n"


def quote(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f") if text.isascii() else _escaped(text)


def _escaped(text: str) -> str:
    return '"' + "".join(f"\\U{ord(c):08x}" for c in text) + '"'


def value_text(value: Any) -> str:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(value_text, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.fixture(scope="session")
def parse() -> Parse:
    """Parse TOML text or tables (None: no file) and options, as if from `job.toml`."""

    def run(toml: str | dict[str, Any] | None, *options: str) -> MosaicJobConfig:
        with tempfile.TemporaryDirectory() as folder:
            args = list(options)
            if toml is not None:
                file = Path(folder, "job.toml")
                file.write_text(toml if isinstance(toml, str) else to_toml(toml), encoding="utf-8")
                args = ["--config-path", str(file), *args]
            return MosaicConfigManager().parse_args(args)

    return run


@pytest.fixture(scope="session")
def error(parse: Parse) -> Callable[..., str]:
    """Return the text of the `ConfigError`, without the folder of the file."""

    def run(toml: str | dict[str, Any] | None, *options: str) -> str:
        with pytest.raises(ConfigError) as caught:
            parse(toml, *options)
        text = str(caught.value)
        assert len(text.splitlines()) == 1
        head, found, tail = text.partition("job.toml: ")
        return found + tail if found else head

    return run
