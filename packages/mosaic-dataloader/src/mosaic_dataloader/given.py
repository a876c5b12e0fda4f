"""Options as a caller gives them in Python: refused in one line, as a TOML file's are."""

import math
import numbers
import operator
import os
from typing import Any
from urllib.parse import unquote

import numpy as np

from mosaic_dataloader.errors import MosaicDataError


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
        raise MosaicDataError(f"{name} = {text!r} must be a path or an address")
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
