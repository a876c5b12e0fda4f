"""Setting the command line's options on a configuration, and printing which there are.

tyro reads the values and prints the help. The options are looked up here: tyro has none for tables
whose keys the user chooses (streams, tokenizer arguments), and its messages take several lines.
"""

import copy
import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tyro
from torchtitan.config.manager import custom_registry

from mosaic_config.arguments import Given, parse_free, parse_typed, underscored
from mosaic_config.errors import ConfigError
from mosaic_config.schema import (
    NAME,
    Path,
    keys_of,
    missing_keys,
    named_value,
    names_hidden,
    place,
    table_in,
    tables,
    tables_in_list,
)
from mosaic_config.strict import MISMATCH, coerce
from mosaic_config.suggest import nearest, unknown_option


def set_options(root: type, given: Sequence[Given], config: Any) -> Any:
    """Return a configuration with the command line's options set, in their order.

    Args:
        root: The dataclass of the configuration.
        given: The options.
        config: An instance of `root`, which is changed in place.

    Raises:
        ConfigError: An option is unknown, or its value is wrong.
    """
    changes: dict[Path, dict[str, Any]] = {}
    for option in given:
        path, value = _read(root, option, config, changes)
        changes.setdefault(path[:-1], {})[path[-1]] = value
    # The innermost tables first: a table outside of them takes them over when it is replaced.
    while changes:
        where = max(changes, key=len)
        new = _changed(root, where, _at(config, where), changes.pop(where))
        if not where:
            config = new
        elif (owner := _at(config, where[:-1])) is None:
            # A table that has no default: it is made of what is set in it.
            changes.setdefault(where[:-1], {})[where[-1]] = new
        elif isinstance(owner, dict):
            owner[where[-1]] = new
        else:
            setattr(owner, where[-1], new)
    return config


def print_help(root: type, config: Any, section: str | None = None) -> None:
    """Print the options of a section, or of all of them, with their present values.

    Raises:
        ConfigError: There is no such section.
        SystemExit: Help is printed (status 0).
    """
    shown = copy.deepcopy(config)
    for path, annotation in _open_fields(root).items():
        named = named_value(annotation)
        entry: Any = {}
        if tables_in_list(annotation):
            entry = []  # tyro would number the tables of the file from 0
        # A placeholder shows how these options are written.
        elif (cls := table_in(named)) is not None:
            entry = {"NAME": cls()}
        elif named is Any:
            entry = {"KEY": "VALUE"}
        if (table := _at(shown, path[:-1])) is not None:
            setattr(table, path[-1], entry)
    if section is not None:
        types, name = keys_of(root), underscored(section)
        if name not in types:
            close = nearest(name, types)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(types)}"
            raise ConfigError(f"--help {section}: there is no such section; {hint}")
        value = getattr(shown, name)
        field = (name, types[name], dataclasses.field(default_factory=lambda: value))
        root = dataclasses.make_dataclass("Options", [field])
        shown = root()
    tyro.cli(root, args=["--help"], default=shown, registry=custom_registry)


def _at(config: Any, path: Path) -> Any:
    """Return what stands at a path; None where nothing does yet."""
    for part in path:
        config = config.get(part) if isinstance(config, dict) else getattr(config, part, None)
    return config


@functools.cache
def _open_fields(root: type) -> Mapping[Path, Any]:
    """Return the paths and types of all keys that hold a list of tables or names of the user's."""
    return {
        (*path, key): annotation
        for path, cls in tables(root).items()
        for key, annotation in keys_of(cls).items()
        if tables_in_list(annotation) or named_value(annotation) is not None
    }


def _changed(root: type, where: Path, old: Any, values: dict[str, Any]) -> Any:
    """Return a table with new values, whose own checks it has passed."""
    if isinstance(old, dict) or where in _open_fields(root):
        return {**(old or {}), **values}
    cls = type(old) if old is not None else tables(root)[names_hidden(root, where)]
    if old is None:
        for problem in missing_keys(place(where), cls, values):
            raise ConfigError(problem)
    try:
        return cls(**values) if old is None else dataclasses.replace(old, **values)
    except (ValueError, AssertionError) as error:
        flags = ", ".join(f"--{'.'.join((*where, key))}" for key in values)
        raise ConfigError(f"{flags}: {error}") from error


def _read(
    root: type, option: Given, config: Any, changes: Mapping[Path, Mapping[str, Any]]
) -> tuple[Path, Any]:
    """Return the path of an option's key, and its value.

    `changes` is what the options before it have changed or added, by table.
    """
    if not option.flag:
        raise ConfigError(
            f"unexpected argument {option.values[0]}; options are --section.key VALUE"
        )
    for above, annotation in _open_fields(root).items():
        if not f"{option.name}.".startswith(f"{'.'.join(above)}."):
            continue
        present = _at(config, above)
        if tables_in_list(annotation):
            before = changes.get(above[:-1], {}).get(above[-1], present)
            return above, _read_listed(option, above, before or [])
        names = [*(present or ()), *(path[-1] for path in changes if path[:-1] == above)]
        return _read_named(root, option, above, named_value(annotation), names)
    *section, key = option.name.split(".")
    where = tuple(section)
    cls = tables(root).get(where)
    types = keys_of(cls) if cls is not None else {}
    positive = key if key in types else key.removeprefix("no_")
    if types.get(positive) is bool:
        if option.values:
            flag = f"--{'.'.join(section)}"
            raise ConfigError(
                f"{option.flag} takes no value, got {' '.join(option.values)}; "
                f"write {flag}.{positive} or {flag}.no-{positive}"
            )
        return (*where, positive), positive == key
    if key not in types or table_in(types[key]) is not None:
        raise ConfigError(unknown_option(root, option.flag, where, key, written=where))
    return (*where, key), parse_typed(option, types[key])


def _read_named(
    root: type, option: Given, above: Path, named: Any, names: Collection[str]
) -> tuple[Path, Any]:
    """Return the path and the value of an option below a table whose keys the user chooses.

    The table is at `above`, has the keys `names`, and values of type `named`.
    """
    tail = option.flag[2 + len(".".join(above)) + 1 :]
    cls = table_in(named)
    if cls is None and tail:
        if named is Any:
            return (*above, underscored(tail)), parse_free(option)
        return (*above, tail), parse_typed(option, named)
    written, _, key = tail.rpartition(".")
    key = underscored(key)
    types = keys_of(cls) if cls is not None else {}
    if not written:
        name, keys = "", ""
        if cls is not None:
            name, keys = f"{NAME}.", f", where the key is one of {', '.join(types)}"
        raise ConfigError(
            f"{option.flag} is not an option by itself; "
            f"write --{'.'.join(above)}.{name}<key> VALUE{keys}"
        )
    if key not in types:
        raise ConfigError(
            unknown_option(root, option.flag, (*above, NAME), key, written=(*above, written))
        )
    return (*above, _existing_name(written, names), key), parse_typed(option, types[key])


def _read_listed(option: Given, above: Path, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a list of tables (that at `above`, which was `before`) with an option's value in it.

    Worked example: `--a.stages.2.weights.code 0.3` sets `code` in the table `weights` of the second
    stage, and `--a.stages '[{samples = 9}, {}]'` replaces the whole list.
    """
    name = ".".join(above)
    tail = option.flag[2 + len(name) + 1 :]
    if not tail:
        found = coerce(list[dict[str, Any]], parse_free(option))
        if found is MISMATCH:
            raise ConfigError(
                f"{option.flag} {option.values[0]}: must be a list of tables in TOML, such as "
                f"'[{{weights = {{a = 0.7, b = 0.3}}}}]'"
            )
        return list(found)
    number, _, rest = tail.partition(".")
    key, _, inner = rest.partition(".")
    if not number.isdecimal() or not key:
        raise ConfigError(
            f"{option.flag} is not an option by itself; write --{name}.1.<key> VALUE for the "
            f"first table of the list, or --{name} '[...]' for all of it"
        )
    listed = copy.deepcopy(before)
    if not 0 < int(number) <= len(listed) + 1:
        raise ConfigError(
            f"{option.flag}: the list has {len(listed)} tables; give the number of one of them, or "
            f"{len(listed) + 1} to add one"
        )
    if int(number) > len(listed):
        listed.append({})
    table, key = listed[int(number) - 1], underscored(key)
    if inner:
        named = table.setdefault(key, {})
        if not isinstance(named, dict):
            raise ConfigError(f"{option.flag}: {key} is {named!r} and not a table; remove .{inner}")
        table, key = named, _existing_name(inner, named)
    table[key] = parse_free(option)
    return listed


def _existing_name(written: str, names: Collection[str]) -> str:
    """Return the present name that is meant, or the name as written for a new one."""
    if len(written) > 2 and written[0] == written[-1] and written[0] in "\"'":
        written = written[1:-1]
    if written in names:
        return written
    alike = {name for name in names if underscored(name) == underscored(written)}
    return alike.pop() if len(alike) == 1 else written
