"""The one error that a user's configuration mistakes end in."""

from collections.abc import Sequence


class ConfigError(ValueError):
    """Configuration mistakes; `str()` is one line that says what to change.

    Attributes:
        problems: One line for each mistake, at least one, in the order of the file.
    """

    def __init__(self, *problems: str) -> None:
        """Store the lines, with line breaks (say, from a quoted TOML key) turned into spaces."""
        self.problems = tuple(" ".join(problem.splitlines()) for problem in problems)
        super().__init__("; ".join(self.problems))

    @classmethod
    def of_file(cls, problems: Sequence[str], source: str | None) -> "ConfigError":
        """Return the error for a non-empty list of problems, each with the name of the file.

        Args:
            problems: Sentences, in the order of the file.
            source: The file that they were found in; None without a file.
        """
        return cls(*(f"{source}: {problem}" if source else problem for problem in problems))
