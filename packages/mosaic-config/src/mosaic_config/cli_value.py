"""Reading the value of one command line option."""

import contextlib
import dataclasses
import io
import tomllib
from collections.abc import Sequence
from typing import Any

import tyro
from torchtitan.config.manager import custom_registry

from mosaic_config.errors import ConfigError
from mosaic_config.schema import arms, choices, describe
from mosaic_config.suggest import nearest


def parse_typed(flag: str, annotation: Any, values: Sequence[str]) -> Any:
    """Return the value of an option, read by tyro with TorchTitan's rules.

    Args:
        flag: The option as it was written, for the message.
        annotation: Its type.
        values: Its command line tokens.

    Raises:
        ConfigError: there is no value, or it is not of the type.
    """
    expected = describe(annotation)
    if type(None) in arms(annotation):
        expected += " or None"
    if not values:
        raise ConfigError(f"{flag} needs a value: {expected}")
    holder: Any = dataclasses.make_dataclass("Holder", [("value", annotation)])
    words = list(values)
    if bool in arms(annotation):  # TOML's spelling, beside tyro's
        words = [{"true": "True", "false": "False"}.get(word, word) for word in words]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(holder, args=["--value", *words], registry=custom_registry).value
    except SystemExit:
        text = " ".join(values)
        close = nearest(text, [word for word in choices(annotation) if isinstance(word, str)])
        hint = f"; did you mean {close}?" if close else ""
        raise ConfigError(f"{flag} {text}: must be {expected}{hint}") from None


def parse_free(flag: str, values: Sequence[str]) -> Any:
    """Return the value of an option without a type: a TOML literal, else the string itself.

    `True`, `False` and `None` are understood too. TOML's dates stay strings.

    Raises:
        ConfigError: there is no value, or more than one.
    """
    if len(values) != 1:
        raise ConfigError(f"{flag} needs one value, got {' '.join(values) or 'none'}")
    text = values[0]
    python = {"True": True, "False": False, "None": None}
    if text in python:
        return python[text]
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table["value"]
    simple = isinstance(value, (bool, int, float, str, list, dict))
    return value if simple and len(table) == 1 else text
