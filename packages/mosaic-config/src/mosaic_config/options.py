"""Parsing the command line with tyro, and saying in one line what is wrong with it."""

import contextlib
import copy
import dataclasses
import functools
import io
import sys
from collections.abc import Sequence
from typing import Any

import tyro
from torchtitan.config.manager import custom_registry

from mosaic_config.arguments import Given, underscored
from mosaic_config.cli_value import parse_typed
from mosaic_config.errors import ConfigError
from mosaic_config.named_options import named_fields
from mosaic_config.schema import Path, keys_of, table_in, tables
from mosaic_config.suggest import nearest, unknown_option


def parse_options(root: type, given: Sequence[Given], base: Any) -> Any:
    """Return a configuration with the command line's options set.

    Args:
        root: The dataclass of the whole configuration.
        given: The options, without those below named tables.
        base: An instance of it with the TOML file's values.

    Raises:
        ConfigError: an option is unknown, or its value is wrong.
        SystemExit: help was asked for and printed (status 0).
    """
    args = [token for option in given for token in option.tokens()]
    default, put_aside = _without_named_tables(root, base, for_help={"-h", "--help"} & {*args})
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            config = tyro.cli(root, args=args, default=default, registry=custom_registry)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise _explain(root, given, default, errors.getvalue()) from None
    except AssertionError as error:  # sections check their values with assert, too
        raise _explain(root, given, default, str(error)) from error
    sys.stderr.write(errors.getvalue())
    for path, value in put_aside.items():
        setattr(functools.reduce(getattr, path[:-1], config), path[-1], value)
    return config


def print_section(root: type, base: Any, section: str) -> None:
    """Print the options of one section, with their present values.

    Args:
        root: The dataclass of the whole configuration.
        base: An instance of it.
        section: A section's name.

    Raises:
        ConfigError: there is no such section.
    """
    types = keys_of(root)
    name = underscored(section)
    if name not in types:
        close = nearest(name, types)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(types)}"
        raise ConfigError(f"--help {section}: there is no such section; {hint}")
    shown, _ = _without_named_tables(root, base, for_help=True)
    value = getattr(shown, name)
    only = [(name, types[name], dataclasses.field(default_factory=lambda: value))]
    holder: Any = dataclasses.make_dataclass("Options", only)
    with contextlib.suppress(SystemExit):
        tyro.cli(holder, args=["--help"], registry=custom_registry)


def _without_named_tables(
    root: type, base: Any, *, for_help: object
) -> tuple[Any, dict[Path, dict[str, Any]]]:
    """Empty the named tables of a copy, for which tyro's spelling of options is ambiguous.

    For help they hold one placeholder instead, which shows how their options are written.
    """
    copied = copy.deepcopy(base)
    put_aside = {}
    for path, named in named_fields(root).items():
        owner = functools.reduce(getattr, path[:-1], copied)
        put_aside[path] = getattr(owner, path[-1])
        cls = table_in(named)
        shown = {"NAME": cls()} if cls is not None else {"KEY": "VALUE"} if named is Any else {}
        setattr(owner, path[-1], shown if for_help else {})
    return copied, put_aside


def _explain(root: type, given: Sequence[Given], base: Any, message: str) -> ConfigError:
    """Find the option that tyro stumbled over, by reading each on its own.

    Args:
        root: The dataclass of the whole configuration.
        given: The options that tyro got.
        base: The configuration before them.
        message: What tyro printed, for mistakes that only it understands.
    """
    leaves = {(*path, key): tp for path, cls in tables(root) for key, tp in keys_of(cls).items()}
    changes: dict[Path, dict[str, Any]] = {}
    try:
        for option in given:
            path = tuple(option.name.split("."))
            positive = (*path[:-1], path[-1].removeprefix("no_"))
            if path in leaves and leaves[path] is not bool and table_in(leaves[path]) is None:
                value = parse_typed(option.flag, leaves[path], option.values)
                changes.setdefault(path[:-1], {})[path[-1]] = value
            elif bool in (leaves.get(path), leaves.get(positive)):
                _check_flag(option, path if leaves.get(path) is bool else positive)
            else:
                return ConfigError(_not_an_option(root, option, path))
    except ConfigError as error:
        return error
    for place, values in changes.items():
        section: Any = functools.reduce(getattr, place, base)
        try:
            dataclasses.replace(section, **values)
        except (ValueError, AssertionError) as error:
            flags = ", ".join(f"--{'.'.join((*place, key))}" for key in values)
            return ConfigError(f"{flags}: {error}")
    return ConfigError(_text_of_box(message))


def _check_flag(option: Given, path: Path) -> None:
    if option.values:
        negative = (*path[:-1], "no-" + path[-1])
        raise ConfigError(
            f"{option.flag} takes no value, got {' '.join(option.values)}; "
            f"write --{'.'.join(path)} or --{'.'.join(negative)}"
        )


def _not_an_option(root: type, option: Given, path: Path) -> str:
    if not option.flag:
        return f"unexpected argument {option.values[0]}; options are --section.key VALUE"
    return unknown_option(root, option.flag, path[:-1], path[-1], written=path[:-1])


def _text_of_box(message: str) -> str:
    """Return the words of tyro's framed message in one line."""
    frame = "╭╮╰╯│─"
    words = "".join(" " if c in frame else c for c in message).split()
    return " ".join(words)
