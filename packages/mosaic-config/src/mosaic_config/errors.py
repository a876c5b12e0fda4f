"""The one error that a user's configuration mistake ends in."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """A configuration mistake; `str()` is one line that says what to change."""

    def __init__(self, message: str) -> None:
        """Store the message, with line breaks (say, from a quoted TOML key) turned into spaces."""
        super().__init__(" ".join(message.splitlines()))

    @classmethod
    def first_of(cls, problems: Sequence[str], source: str | None) -> "ConfigError":
        """Return the error for a non-empty list of problems: the first, and how many more.

        Args:
            problems: Sentences, in the order of the file.
            source: The file that they were found in; None without a file.
        """
        more = len(problems) - 1
        tail = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
        return cls(f"{source}: {problems[0]}{tail}" if source else f"{problems[0]}{tail}")
