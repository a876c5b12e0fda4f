"""The command line as tokens: which options it holds and what follows each."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mosaic_config.errors import ConfigError


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

    def tokens(self) -> list[str]:
        """Return the option as command line tokens again."""
        if self.inline:
            return [f"{self.flag}={self.values[0]}", *self.values[1:]]
        return [self.flag, *self.values] if self.flag else list(self.values)


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
        ConfigError: the option has no value or several, or is given twice with different ones.
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
