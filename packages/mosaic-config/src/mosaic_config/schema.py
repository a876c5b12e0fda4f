"""Reading a tree of dataclasses as a schema: its tables, their keys and the keys' types."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union

Path = tuple[str, ...]
"""A TOML path, one element for each table or key."""

NAME = "<name>"
"""Stands in a path for a name that the user chooses, as in `streams.<name>`."""


def plain(annotation: Any) -> Any:
    """Return a type without the `Annotated` around it."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation


def keys_of(table: type) -> dict[str, Any]:
    """Return the keys of a dataclass and their types.

    Types are read from the fields as TorchTitan's manager reads them, so a module with postponed
    annotations has strings here, which nothing is checked against.
    """
    return {f.name: plain(f.type) for f in dataclasses.fields(table) if f.init}


def arms(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    annotation = plain(annotation)
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(plain(arm) for arm in typing.get_args(annotation))
    return (annotation,)


def table_in(annotation: Any) -> type | None:
    """Return the dataclass that a value of this type may be written as a TOML table for."""
    classes = (arm for arm in arms(annotation) if isinstance(arm, type))
    return next((cls for cls in classes if dataclasses.is_dataclass(cls)), None)


def named_value(annotation: Any) -> Any | None:
    """Return T for `dict[str, T]`, whose keys the user chooses; None for every other type."""
    annotation = plain(annotation)
    if typing.get_origin(annotation) is dict and typing.get_args(annotation)[0] is str:
        return plain(typing.get_args(annotation)[1])
    return None


def tables(root: type, path: Path = ()) -> Iterator[tuple[Path, type]]:
    """Yield every table below a dataclass with its path, the dataclass itself first."""
    yield path, root
    for key, annotation in keys_of(root).items():
        if (inner := table_in(annotation)) is not None:
            yield from tables(inner, (*path, key))
        elif (named := table_in(named_value(annotation))) is not None:
            yield from tables(named, (*path, key, NAME))


def names_hidden(root: type, path: Path) -> Path:
    """Return a path with `NAME` for the user's own names, to compare it with the schema's."""
    hidden: list[str] = []
    here: Any = root
    for part in path:
        if here is not None and dataclasses.is_dataclass(here):
            annotation = keys_of(here).get(part)  # type: ignore[arg-type]
            here, hidden = table_in(annotation) or annotation, [*hidden, part]
        else:
            here, hidden = table_in(named_value(here)), [*hidden, NAME]
    return tuple(hidden)


def choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values of the `Literal` in a type; empty if it has none."""
    literals = (arm for arm in arms(annotation) if typing.get_origin(arm) is Literal)
    return tuple(value for literal in literals for value in typing.get_args(literal))


def describe(annotation: Any) -> str:
    """Return a type in the words of an error message, such as `int or str`."""
    words = []
    for arm in arms(annotation):
        origin, members = typing.get_origin(arm), typing.get_args(arm)
        if arm is type(None):
            continue  # TOML has no null: such a key is left out
        if origin is Literal:
            words.append("one of " + ", ".join(show(value) for value in members))
        elif origin is None:
            words.append(getattr(arm, "__name__", str(arm)))
        else:
            inner = ", ".join("..." if m is Ellipsis else describe(m) for m in members)
            words.append(f"{origin.__name__}[{inner}]")
    return " or ".join(words) or "nothing"


def show(value: Any) -> str:
    """Return a value as TOML writes it, cut to a readable length."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = quoted(value)
    elif isinstance(value, dict):
        return "a table"
    elif isinstance(value, list):
        text = "[" + ", ".join(show(item) for item in value) + "]"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def quoted(text: str) -> str:
    """Return a TOML basic string; what would break the line is escaped."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'


def dotted(path: Path) -> str:
    """Return a path as TOML writes it: `a.b."odd name"`."""
    bare = re.compile(r"[A-Za-z0-9_-]+\Z")
    return ".".join(p if p == NAME or bare.match(p) else quoted(p) for p in path)


def place(path: Path) -> str:
    """Return the header of the table at a path: `[a.b]`, or words for the top level."""
    return f"[{dotted(path)}]" if path else "the top level"


def out_of_bounds(where: str, table: type, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each number that is not inside the bounds of its key.

    Bounds are in the metadata of a dataclass's fields: `least`, `above` and `most`.

    Args:
        where: The table's TOML header, for the sentence.
        table: The dataclass of the table.
        values: Its values by key; None and text are passed over.
    """
    for field in dataclasses.fields(table):
        value = values.get(field.name)
        limits = {key: field.metadata.get(key) for key in ("least", "above", "most")}
        bounded = any(limit is not None for limit in limits.values())
        if not bounded or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            wanted = "a finite number"
        elif limits["least"] is not None and value < limits["least"]:
            wanted = f"at least {limits['least']}"
        elif limits["above"] is not None and value <= limits["above"]:
            wanted = f"above {limits['above']}"
        elif limits["most"] is not None and value > limits["most"]:
            wanted = f"at most {limits['most']}"
        else:
            continue
        yield f"{where} {field.name} = {value}: must be {wanted}"
