"""Checking one value against one type, without the conversions that hide mistakes."""

import typing
from typing import Any, Literal

from mosaic_config.schema import arms, plain


class MismatchError(Exception):
    """A value is not of the type; the caller knows the place and makes the message."""


def coerce(annotation: Any, value: Any) -> Any:
    """Return a TOML value as its field's type has it.

    An int becomes a float where only a float is expected, and a list a tuple; nothing else is
    converted. A bool is never an int. Types that TOML cannot express (only a custom config module
    has them) are handed on unchecked, as TorchTitan does.

    Raises:
        MismatchError: the value is of another type.
    """
    members = arms(annotation)
    if len(members) > 1:
        # An exact match first, so that 1 stays an int in `float | int`.
        for arm in sorted(members, key=lambda arm: type(value) is not arm):
            try:
                return coerce(arm, value)
            except MismatchError:
                continue
        raise MismatchError
    expected = plain(annotation)
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin is Literal:
        return _exactly(value, any(type(value) is type(m) and value == m for m in inner))
    if expected is float and type(value) is int:
        return float(value)
    if expected in (bool, int, float, str, type(None)):
        return _exactly(value, type(value) is expected)
    if origin is list or expected is list:
        return [coerce(inner[0] if inner else Any, item) for item in _list(value)]
    if origin is tuple:
        return _tuple(inner, _list(value))
    if origin is dict or expected is dict:
        return _exactly(value, isinstance(value, dict))
    return value


def _exactly(value: Any, matches: bool) -> Any:
    if not matches:
        raise MismatchError
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise MismatchError
    return value


def _tuple(inner: tuple[Any, ...], items: list[Any]) -> tuple[Any, ...]:
    if len(inner) == 2 and inner[1] is Ellipsis:
        return tuple(coerce(inner[0], item) for item in items)
    if len(inner) != len(items):
        raise MismatchError
    return tuple(coerce(tp, item) for tp, item in zip(inner, items, strict=True))
