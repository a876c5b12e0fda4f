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
    missing_keys,
    named_value,
    names_hidden,
    out_of_bounds,
    place,
    quoted,
    show,
    table_in,
)
from mosaic_config.suggest import nearest, suggest
from mosaic_config.unsupported_keys import reason_for_key, reason_for_value


def build_strictly(root: type, data: dict[str, Any], source: str | None) -> Any:
    """Return an instance of a configuration dataclass, filled from TOML tables.

    Args:
        root: The dataclass of the configuration.
        data: Tables as `tomllib` returns them; keys left out keep their defaults.
        source: The file's name for messages; None without a file.

    Raises:
        ConfigError: A key is unknown, or a value is of the wrong type, out of bounds or refused by
            its section. All of the mistakes are reported at once.
    """
    builder = _Builder(root)
    config = builder.table(root, data, ())
    if builder.problems:
        raise ConfigError.of_file([*builder.problems, *builder.beyond], source)
    return config


class _Builder:
    """One walk over the tables, which continues after a mistake to find all of them.

    Attributes:
        problems: A sentence for each mistake that leaves no configuration.
        beyond: A sentence for each number out of bounds; without other problems `validate`
            reports them, since the command line may still replace the numbers.
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
        beyond = out_of_bounds(
            place(path), cls, {key: data[key] for key, value in values.items() if value is not None}
        )
        self.beyond += beyond.values()
        # An int stays one even for a float: `validate` reports it as it was written.
        values |= {key: data[key] for key in beyond}
        self.problems += missing_keys(place(path), cls, data)
        if len(self.problems) > before:
            return None  # the section's own checks would report the same mistake again
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
        found = coerce(annotation, value)
        if found is MISMATCH:
            self.problems.append(_wrong_value(annotation, value, path))
            return None
        return found

    def unknown_key(self, cls: type, path: Path, key: str, value: Any) -> str:
        if (reason := reason_for_key(path, key)) is not None:
            return f"{f'{place(path)} {key}' if path else place((key,))} {reason}"
        is_table = isinstance(value, dict)
        here, elsewhere = suggest(self.root, names_hidden(self.root, path), key, is_table=is_table)
        if is_table:
            what = f"there is no table {place((*path, key))}"
            near = [(*path, here)] if here else []
            meant = [*near, *((*p, key) for p in elsewhere)][:3]
            hint = " or ".join(place(p) for p in meant)
            return f"{what}; did you mean {hint}?" if hint else f"{what}{_keys_instead(cls, path)}"
        what = f"{place(path)} has no key {quoted(key)}"
        others = " or ".join(place(p) for p in elsewhere[:3])
        if here is not None:
            what += f'; did you mean "{here}"?'
            return what + (f' ("{key}" is a key of {others})' if others else "")
        return f"{what}; it belongs in {others}" if others else what + _keys_instead(cls, path)


MISMATCH = object()
"""What `coerce` returns for a value that is not of the type."""


def coerce(annotation: Any, value: Any) -> Any:
    """Return a TOML value as its field's type has it, or `MISMATCH`.

    An int becomes a float where only a float is expected, and a list a tuple; nothing else is
    converted. A bool is never an int. Types that TOML cannot express (only a custom config module
    has them) are passed on unchecked, as TorchTitan does.
    """
    # An exact match first, so that 1 stays an int in `float | int`.
    for arm in sorted(arms(annotation), key=lambda arm: type(value) is not arm):
        found = _coerce_one(arm, value)
        if found is not MISMATCH:
            return found
    return MISMATCH


def _coerce_one(expected: Any, value: Any) -> Any:
    """`coerce` for a type that is not a union."""
    origin, inner = typing.get_origin(expected) or expected, typing.get_args(expected)
    if origin is Literal:
        matches = any(type(value) is type(member) and value == member for member in inner)
        return value if matches else MISMATCH
    if origin is float and type(value) is int:
        return float(value)
    if origin in (bool, int, float, str, dict, type(None)):
        return value if type(value) is origin else MISMATCH
    if origin not in (list, tuple):
        return value
    if not isinstance(value, list):
        return MISMATCH
    if origin is list or not inner or inner[-1] is Ellipsis:
        inner = (inner[0] if inner else Any,) * len(value)
    if len(inner) != len(value):
        return MISMATCH
    items = [coerce(each, item) for each, item in zip(inner, value, strict=True)]
    return MISMATCH if any(item is MISMATCH for item in items) else origin(items)


def _keys_instead(cls: type, path: Path) -> str:
    free = [key for key, tp in keys_of(cls).items() if named_value(tp) is Any]
    hint = f" (free keys go in {place((*path, free[0]))})" if free else ""
    return f"; its keys are {', '.join(keys_of(cls))}{hint}"


def _wrong_value(annotation: Any, value: Any, path: Path) -> str:
    """Return the sentence for a value that is not of its key's type."""
    where = f"{place(path[:-1])} {dotted(path[-1:])} = {show(value)}"
    if (reason := reason_for_value(path, value)) is not None:
        return f"{where}: {reason}"
    expected = describe(annotation)
    if isinstance(value, str) and (options := choices(annotation)):
        close = nearest(value, [option for option in options if isinstance(option, str)])
        return f"{where}: must be {expected}" + (f'; did you mean "{close}"?' if close else "")
    return f"{where}: must be {expected}, not {type(value).__name__}"
