"""Options as a caller gives them in Python: defined once, and refused in one line.

A dataclass of options has an `option` for each: its default, text and bounds. `check_options`
checks values against them, and `tools/generate_sections.py` writes the TOML sections from them.
"""

import argparse
import dataclasses
import difflib
import itertools
import math
import numbers
import operator
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.secrets import redacted

_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def option(
    default: Any,
    text: str,
    *,
    least: int | None = None,
    above: int | None = None,
    most: int | None = None,
    choices: Sequence[str] = (),
    path: bool = False,
) -> Any:
    """A dataclass field with all that is known about an option.

    Args:
        default: Its default.
        text: What it does, in a few sentences.
        least: The smallest number that it takes.
        above: A number below all that it takes.
        most: The largest number that it takes.
        choices: All values that it takes.
        path: Whether it is a path or an address, which `place` checks where it is resolved.
    """
    limits = {"least": least, "above": above, "most": most}
    metadata = {"text": text, "choices": tuple(choices), "path": path, **limits}
    return dataclasses.field(default=default, metadata=metadata)


def as_flags(message: str, names: Iterable[str]) -> str:
    """A message with the names of options as a command line has them: `seq_len` as `--seq-len`.

    A name that is a plain word, such as `form`, is an option only where the message gives its value
    (`form = "rows"`) or says to change it (`leave out form`).
    """
    for name in names:
        flag = f"--{name.replace('_', '-')}"
        # Not within a path, a quoted text or a longer name.
        word = rf"(?<![\w./'\"-]){name}(?![\w/'\"-]|\.\w)"
        message = re.sub(rf"{word} ?= ?(?=\S)", f"{flag} ", message)
        asks = "" if "_" in name else r"\b(?:leave out|set either|choose another|correct) "
        message = re.sub(rf"({asks}){word}", rf"\1{flag}", message)
    return message


class CommandParser(argparse.ArgumentParser):
    """Reports a mistake in one line, and a misspelt option before what is missing because of it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does; only known options, in full, are accepted."""
        words = list(sys.argv[1:] if args is None else args)
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in itertools.takewhile(lambda word: word != "--", words):
            flag = word.partition("=")[0]
            if flag.startswith("--") and flag not in known:
                near = difflib.get_close_matches(flag, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                self.error(f"there is no option {flag}{hint}")
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End the command with status 2."""
        hint = "" if message.endswith("?") else f"; {self.prog} --help lists the options"
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")


def check_options(options: Any) -> None:
    """Check each option of a frozen dataclass; numpy's numbers become Python's.

    Raises:
        MosaicDataError: A value is not one that its option takes.
    """
    for field in dataclasses.fields(options):
        value = checked(field, field.name, getattr(options, field.name))
        object.__setattr__(options, field.name, value)


def checked(field: "dataclasses.Field[Any]", name: str, value: Any) -> Any:
    """A value of an option, as a Python number where it is a number.

    ``field`` is made by `option`; ``name`` is for the message.

    Raises:
        MosaicDataError: The option does not take the value.
    """
    union = typing.get_origin(field.type) in (types.UnionType, typing.Union)
    kinds = typing.get_args(field.type) if union else (field.type,)
    limits = {key: field.metadata.get(key) for key in ("least", "above", "most")}
    choices = field.metadata.get("choices")
    if field.metadata.get("path") or (value is None and type(None) in kinds):
        return value
    if choices:
        if value not in choices:
            raise MosaicDataError(f"{name} = {value!r} is not one of {', '.join(choices)}")
    elif str in kinds:
        # A size, such as 100 or "100k", is checked where it is parsed.
        if int not in kinds and not isinstance(value, str):
            raise MosaicDataError(f"{name} = {value!r} must be text")
    elif bool in kinds:
        return flag(name, value)
    elif int in kinds:
        return integer(name, value, **limits)
    elif float in kinds:
        return number(name, value, **limits)
    return value


def parse_bytes(option: str, value: int | str) -> int:
    """A number of bytes: ``10gb``, ``500mb``, ``1024`` (units are powers of 1024).

    Raises:
        MosaicDataError: It is not such a size.
    """
    return _parse(option, value, _BYTES, "10gb, 500mb")


def parse_count(option: str, value: int | str) -> int:
    """A number of samples: ``100k``, ``64M``, ``77b``, ``1000``.

    Raises:
        MosaicDataError: It is not such a number.
    """
    return _parse(option, value, _COUNTS, "100k, 64M")


def _parse(option: str, value: int | str, units: dict[str, int], examples: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(value))
    if match is None or match[2].lower() not in units:
        raise MosaicDataError(f"{option} = {value!r} is not a size; write for example {examples}")
    wanted = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(wanted):
        raise MosaicDataError(f"{option} = {value!r} is too large")
    size = int(wanted)
    if size < 1:
        raise MosaicDataError(f"{option} = {value!r} must be at least 1")
    return size


def integer(
    name: str,
    value: Any,
    least: int | None = None,
    *,
    above: int | None = None,
    most: int | None = None,
) -> int:
    """A whole number inside its bounds; numpy's are taken, True and 2.0 are not.

    Raises:
        MosaicDataError: It is something else.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise MosaicDataError(f"{name} = {value!r} must be a whole number")
    found = operator.index(value)
    _check_limits(name, found, least, above, most)
    return found


def number(
    name: str,
    value: Any,
    least: float | None = None,
    *,
    above: float | None = None,
    most: float | None = None,
) -> float:
    """A finite number inside its bounds.

    Raises:
        MosaicDataError: It is something else.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise MosaicDataError(f"{name} = {value!r} must be a number")
    found = float(value)
    if not math.isfinite(found):
        raise MosaicDataError(f"{name} = {found} must be a finite number")
    _check_limits(name, found, least, above, most)
    return found


def _check_limits(
    name: str, value: float, least: float | None, above: float | None, most: float | None
) -> None:
    shown = f"{name} = {value}" if isinstance(value, int) else f"{name} = {value:g}"
    if above is not None and value <= above:
        raise MosaicDataError(f"{shown} must be above {above}")
    if least is not None and value < least:
        raise MosaicDataError(f"{shown} must be at least {least}")
    if most is not None and value > most:
        raise MosaicDataError(f"{shown} must be at most {most}")


def flag(name: str, value: Any) -> bool:
    """True or False, and not a string that says so.

    Raises:
        MosaicDataError: It is something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise MosaicDataError(f"{name} = {value!r} must be true or false")
    return bool(value)


def place(name: str, value: Any) -> str:
    """Where data are: a path with ``~`` and ``file://`` resolved, or a store's address as it is.

    Raises:
        MosaicDataError: It is not a path, a home directory is not known, or the path is not UTF-8,
            which neither messages nor the libraries underneath can hold.
    """
    if not isinstance(value, str | os.PathLike):
        raise MosaicDataError(f"{name} = {value!r} must be a path or an address")
    text = os.fspath(value)
    if isinstance(text, str) and text.startswith("file://"):
        host, slash, path = text.removeprefix("file://").partition("/")
        if host not in ("", "localhost") or not slash:
            raise MosaicDataError(
                f"{name} = {text!r} is not a path on this machine; write file:///path, or the path "
                f"alone"
            )
        text = "/" + unquote(path)
    if not isinstance(text, str) or "\0" in text:
        raise MosaicDataError(f"{name} = {redacted(repr(text))} must be a path or an address")
    if "://" in text:
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        user = expanded.partition("/")[0]
        raise MosaicDataError(
            f"{name} = {text!r}: there is no home directory for {user!r}; write the path in full, "
            f"or ./{user} for a folder of that name"
        )
    try:
        os.path.realpath(expanded).encode()
    except UnicodeEncodeError as error:
        shown = os.path.realpath(expanded).encode("utf-8", "backslashreplace").decode()
        raise MosaicDataError(
            f"{name}: the path {shown} is not UTF-8; rename the folder"
        ) from error
    return expanded
