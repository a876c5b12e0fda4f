"""Options as a caller gives them in Python: refused in one line, as a TOML file's are."""

import math
import numbers
import operator
import os
import re
from typing import Any
from urllib.parse import unquote

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.secrets import redacted

_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


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
        raise MosaicDataError(f"{option} = {value!r} is no size; write for example {examples}")
    wanted = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(wanted):
        raise MosaicDataError(f"{option} = {value!r} is too large")
    size = int(wanted)
    if size < 1:
        raise MosaicDataError(f"{option} = {value!r} must be at least 1")
    return size


def integer(name: str, value: Any, least: int) -> int:
    """A whole number of at least ``least``; numpy's are taken, True and 2.0 are not.

    Raises:
        MosaicDataError: It is something else.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise MosaicDataError(f"{name} = {value!r} must be a whole number")
    found = operator.index(value)
    if found < least:
        raise MosaicDataError(f"{name} = {found} must be at least {least}")
    return found


def number(name: str, value: Any, *, above: float | None = None) -> float:
    """A finite number that is not negative, or is above a bound.

    Raises:
        MosaicDataError: It is something else.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise MosaicDataError(f"{name} = {value!r} must be a number")
    found = float(value)
    if not math.isfinite(found):
        raise MosaicDataError(f"{name} = {found} must be a finite number")
    if above is not None and found <= above:
        raise MosaicDataError(f"{name} = {found:g} must be above {above:g}")
    if found < 0:
        raise MosaicDataError(f"{name} = {found:g} must be at least 0")
    return found


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
        MosaicDataError: It is no path, a home directory is not known, or the path is not UTF-8,
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
