"""Building the configuration from TOML tables, refusing what its types do not have."""

import dataclasses
import typing
from typing import Any, Literal

from mosaic_config.errors import ConfigError
from mosaic_config.schema import (
    Path,
    arms,
    choices,
    describe,
    dotted,
    keys_of,
    named_value,
    names_hidden,
    out_of_bounds,
    place,
    plain,
    quoted,
    show,
    table_in,
)
from mosaic_config.suggest import nearest, suggest
from mosaic_config.unsupported_keys import reason_for_key, reason_for_value


def build_strictly(root: type, data: dict[str, Any], source: str | None) -> Any:
    """Return an instance of a configuration dataclass, filled from TOML tables.

    Args:
        root: The dataclass of the whole configuration.
        data: Tables as `tomllib` returns them; keys left out keep their defaults.
        source: The file's name for messages; None without a file.

    Raises:
        ConfigError: a key is unknown, or a value is of a wrong type, out of bounds or refused by
            its section. All of them are told at once.
    """
    builder = _Builder(root)
    config = builder.table(root, data, ())
    if builder.problems:
        raise ConfigError.of_file([*builder.problems, *builder.beyond], source)
    return config


class _Builder:
    """One walk over the tables, which goes on after a problem to find them all.

    Attributes:
        problems: A sentence for each mistake that leaves no configuration to be looked at.
        beyond: A sentence for each number out of bounds, which `validate` otherwise finds.
    """

    def __init__(self, root: type) -> None:
        self.root = root
        self.problems: list[str] = []
        self.beyond: list[str] = []

    def table(self, cls: type, data: dict[str, Any], path: Path) -> Any:
        keys = keys_of(cls)
        before = len(self.problems)
        values = {}
        for key, value in data.items():
            if key in keys:
                values[key] = self.value(keys[key], value, (*path, key))
            else:
                self.problems.append(self.unknown_key(cls, path, key, value))
        self.beyond += out_of_bounds(place(path), cls, values)
        for f in dataclasses.fields(cls):
            required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            if f.init and required and f.name not in data:
                self.problems.append(f'{place(path)} needs the key "{f.name}"')
        if len(self.problems) > before:
            return None  # the sections' own checks would report the same mistake again
        try:
            return cls(**values)
        except (ValueError, AssertionError) as error:
            self.problems.append(f"{place(path)}: {error}")
            return None

    def value(self, annotation: Any, value: Any, path: Path) -> Any:
        named = named_value(annotation)
        if isinstance(value, dict):
            if (cls := table_in(annotation)) is not None:
                return self.table(cls, value, path)
            if named is not None and named is not Any:
                return {k: self.value(named, v, (*path, k)) for k, v in value.items()}
        elif named is not None or dataclasses.is_dataclass(annotation):
            self.problems.append(
                f"{dotted(path)} is a table; write [{dotted(path)}] and its keys below, "
                f"not {dotted(path[-1:])} = {show(value)}"
            )
            return None
        try:
            return coerce(annotation, value)
        except MismatchError:
            self.problems.append(wrong_value(annotation, value, path))
            return None

    def unknown_key(self, cls: type, path: Path, key: str, value: Any) -> str:
        if (reason := reason_for_key(path, key)) is not None:
            return f"{place(path)} {key} {reason}"
        is_table = isinstance(value, dict)
        found = suggest(self.root, cls, names_hidden(self.root, path), key, is_table=is_table)
        if is_table:
            what = f"there is no table {place((*path, key))}"
            near = [(*path, found.here)] if found.here else []
            meant = [*near, *((*p, key) for p in found.elsewhere)][:3]
            hint = " or ".join(place(p) for p in meant)
            return f"{what}; did you mean {hint}?" if hint else f"{what}{_keys_instead(cls, path)}"
        what = f"{place(path)} has no key {quoted(key)}"
        others = " or ".join(place(p) for p in found.elsewhere[:3])
        if found.here is not None:
            hint = f'; did you mean "{found.here}"?'
            return what + hint + (f' ("{key}" is a key of {others})' if others else "")
        return f"{what}; it belongs in {others}" if others else what + _keys_instead(cls, path)


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


def _keys_instead(cls: type, path: Path) -> str:
    free = [key for key, tp in keys_of(cls).items() if named_value(tp) is Any]
    hint = f" (free keys go in {place((*path, free[0]))})" if free else ""
    return f"; its keys are {', '.join(keys_of(cls))}{hint}"


def wrong_value(annotation: Any, value: Any, path: Path) -> str:
    """Return the sentence for a value that is not of its key's type."""
    where = f"{place(path[:-1])} {dotted(path[-1:])} = {show(value)}"
    if (reason := reason_for_value(path, value)) is not None:
        return f"{where}: {reason}"
    expected = describe(annotation)
    if isinstance(value, str) and (options := choices(annotation)):
        close = nearest(value, [option for option in options if isinstance(option, str)])
        return f"{where}: must be {expected}" + (f'; did you mean "{close}"?' if close else "")
    return f"{where}: must be {expected}, not {type(value).__name__}"
