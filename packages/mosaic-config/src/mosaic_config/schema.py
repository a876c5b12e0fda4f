"""Reading a tree of dataclasses as a schema: its tables, their keys and the keys' types."""

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, Union

Path = tuple[str, ...]
"""A TOML path, one element for each table or key."""

NAME = "<name>"
"""Stands in a path for a name that the user chooses, as in `streams.<name>`."""


@functools.cache
def keys_of(table: type) -> dict[str, Any]:
    """Return the keys of a dataclass and their types, without any `Annotated` around them."""
    hints = typing.get_type_hints(table)
    return {f.name: hints[f.name] for f in dataclasses.fields(table) if f.init}


def missing_keys(where: str, table: type, given: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each key without a default that is not given."""
    for f in dataclasses.fields(table):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if f.init and required and f.name not in given:
            yield f'{where} needs the key "{f.name}"'


def arms(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    union = typing.get_origin(annotation) in (Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)


def table_in(annotation: Any) -> type | None:
    """Return the dataclass that a value of this type may be written as a TOML table for."""
    classes = (arm for arm in arms(annotation) if isinstance(arm, type))
    return next((cls for cls in classes if dataclasses.is_dataclass(cls)), None)


def named_value(annotation: Any) -> Any | None:
    """Return T for `dict[str, T]`, whose keys the user chooses, else None."""
    inner = typing.get_args(annotation)
    return inner[1] if typing.get_origin(annotation) is dict and inner[0] is str else None


def tables_in_list(annotation: Any) -> bool:
    """Return whether a type is `list[dict[str, Any]]`, written as TOML's `[[a.b]]`."""
    inner = typing.get_args(annotation)
    return typing.get_origin(annotation) is list and named_value(inner[0]) is Any


@functools.cache
def tables(root: type) -> Mapping[Path, type]:
    """Return every table below a dataclass by its path, the dataclass itself first."""
    found: dict[Path, type] = {(): root}
    for key, annotation in keys_of(root).items():
        if (inner := table_in(annotation)) is not None:
            found |= {(key, *path): table for path, table in tables(inner).items()}
        elif (named := table_in(named_value(annotation))) is not None:
            found |= {(key, NAME, *path): table for path, table in tables(named).items()}
    return found


def tables_of(config: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield every table of a configuration with its path, those with the user's names too."""
    yield path, config
    for key, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from tables_of(value, (*path, key))
        for name, entry in value.items() if isinstance(value, dict) else ():
            if dataclasses.is_dataclass(entry):
                yield from tables_of(entry, (*path, key, name))


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
    """Return a TOML basic string, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)


def dotted(path: Path) -> str:
    """Return a path as TOML writes it: `a.b."odd name"`."""
    bare = re.compile(r"[A-Za-z0-9_-]+\Z")
    return ".".join(p if p == NAME or bare.match(p) else quoted(p) for p in path)


def place(path: Path) -> str:
    """Return the header of the table at a path: `[a.b]`, or words for the top level."""
    return f"[{dotted(path)}]" if path else "the top level"


def out_of_bounds(where: str, table: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Return a sentence for each number that is not inside the bounds of its key.

    Bounds are in the metadata of a dataclass's fields: `least`, `above` and `most`.

    Args:
        where: The table's TOML header, for the sentence.
        table: The dataclass of the table.
        values: Its values by key; None and text are passed over.
    """
    problems = {}
    for field in dataclasses.fields(table):
        value = values.get(field.name)
        least, above, most = (field.metadata.get(key) for key in ("least", "above", "most"))
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if least is None and above is None and most is None:
            continue
        if not math.isfinite(value):
            wanted = "a finite number"
        elif least is not None and value < least:
            wanted = f"at least {least}"
        elif above is not None and value <= above:
            wanted = f"above {above}"
        elif most is not None and value > most:
            wanted = f"at most {most}"
        else:
            continue
        problems[field.name] = f"{where} {field.name} = {value}: must be {wanted}"
    return problems
