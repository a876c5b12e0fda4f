"""The command line as tokens: which options it holds, and the value of each.

Only what reads a typed value imports TorchTitan, which takes seconds.
"""

import contextlib
import dataclasses
import io
import os
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosaic_config.errors import ConfigError
from mosaic_config.schema import arms, choices, describe
from mosaic_config.suggest import nearest


def underscored(name: str) -> str:
    """Return an option's name in the one spelling that names are compared in."""
    return name.replace("-", "_")


@dataclass
class Given:
    """One option as it was written."""

    flag: str
    """The option with its dashes, without `=value`; empty for values before any option."""

    values: list[str] = field(default_factory=list)
    """The tokens that belong to it."""

    inline: bool = False
    """Whether the first value was joined with `=`."""

    @property
    def name(self) -> str:
        """The option without its leading dashes, with underscores."""
        return underscored(self.flag[2:])


def read_arguments(args: Sequence[str]) -> list[Given]:
    """Return the options of a command line in their order.

    A token that begins with `--` is an option, as tyro sees it; all other tokens are values of
    the option before them.
    """
    given: list[Given] = []
    for token in args:
        if token.startswith("--"):
            flag, joined, value = token.partition("=")
            given.append(Given(flag, [value] if joined else [], bool(joined)))
        elif given:
            given[-1].values.append(token)
        else:
            given.append(Given("", [token]))
    return given


def single_value(given: Sequence[Given], names: Collection[str]) -> str | None:
    """Return the one value of an option that may have several names; None if it is not given.

    Raises:
        ConfigError: The option has no value or several, or is given twice with different ones.
    """
    found = [option for option in given if option.name in names and option.flag]
    for option in found:
        if len(option.values) != 1 or not option.values[0]:
            raise ConfigError(
                f"{option.flag} needs one value, got {' '.join(option.values) or 'none'}"
            )
    for option in found[1:]:
        if option.values != found[0].values:
            raise ConfigError(
                f"{found[0].flag} {found[0].values[0]} and {option.flag} {option.values[0]} "
                "contradict each other; give one of them"
            )
    return found[0].values[0] if found else None


FILE_OPTIONS = {"config_path", "job.config_file"}


def config_file(args: Sequence[str]) -> str | None:
    """Return the TOML file that a command line names; None without one.

    Raises:
        ConfigError: The option has no value or several, or is given twice with different ones.
    """
    path = single_value(read_arguments(args), FILE_OPTIONS)
    # A shell does not expand the `~` of `--config-path=~/job.toml`.
    return os.path.expanduser(path) if path else path


def parse_typed(option: Given, annotation: Any) -> Any:
    """Return the value of an option, read by tyro with TorchTitan's rules.

    Raises:
        ConfigError: The option has no value, or one that is not of the type.
    """
    import tyro
    from torchtitan.config.manager import custom_registry

    values = list(option.values)
    if bool in arms(annotation):  # TOML's spelling, in addition to tyro's
        values = [{"true": "True", "false": "False"}.get(value, value) for value in values]
    args = [f"--value={values[0]}", *values[1:]] if option.inline else ["--value", *values]
    holder: Any = dataclasses.make_dataclass("Holder", [("value", annotation)])
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return tyro.cli(holder, args=args, registry=custom_registry).value
    except SystemExit:
        expected = describe(annotation) + (" or None" if type(None) in arms(annotation) else "")
        if not values:
            raise ConfigError(f"{option.flag} needs a value: {expected}") from None
        text = " ".join(option.values)
        close = nearest(text, [word for word in choices(annotation) if isinstance(word, str)])
        hint = f"; did you mean {close}?" if close else ""
        raise ConfigError(f"{option.flag} {text}: must be {expected}{hint}") from None


def parse_free(option: Given) -> Any:
    """Return the value of an option without a type: a TOML literal, else the string itself.

    `True`, `False` and `None` are understood too. TOML's dates stay strings.

    Raises:
        ConfigError: The option has no value, or more than one.
    """
    if len(option.values) != 1:
        raise ConfigError(f"{option.flag} needs one value, got {' '.join(option.values) or 'none'}")
    text = option.values[0]
    python = {"True": True, "False": False, "None": None}
    if text in python:
        return python[text]
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table["value"]
    simple = isinstance(value, (bool, int, float, str, list, dict))
    return value if simple and len(table) == 1 else text
