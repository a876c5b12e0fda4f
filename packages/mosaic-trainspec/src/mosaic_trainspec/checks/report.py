"""What the checks find, gathered so that it is all reported at once."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from mosaic_trainspec.errors import TrainSpecError

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _is_trainspec_error(error: Exception) -> bool:
    return isinstance(error, TrainSpecError)


@dataclass
class Report:
    """Mistakes, which stop the run; warnings, which say what something costs; facts.

    Attributes:
        is_mistake: Whether an error that a check raises is the user's mistake and its message is
            noted; other errors pass through. By default a `TrainSpecError` is one.
        errors: A line for each mistake.
        warnings: Lines.
        facts: Parts of the line that sums up a run.
    """

    is_mistake: Callable[[Exception], bool] = _is_trainspec_error
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    def attempt(
        self,
        check: Callable[_Arguments, _Result],
        *arguments: _Arguments.args,
        **options: _Arguments.kwargs,
    ) -> _Result | None:
        """Call a check; a mistake that it raises is noted, so that the other checks run too.

        Returns:
            What the check returns; None after a mistake.
        """
        try:
            return check(*arguments, **options)
        except Exception as error:
            if not self.is_mistake(error):
                raise
            self.refuse(getattr(error, "problems", None) or (str(error),))
            return None

    def refuse(self, lines: Iterable[str]) -> None:
        """Note mistakes; each once, however often it is found."""
        self.errors += [line for line in lines if line not in self.errors]

    def warn(self, *lines: str) -> None:
        """Note costs; each once, however often it is found."""
        self.warnings += [line for line in lines if line not in self.warnings]

    def stop_on_errors(self) -> None:
        """Raise a `TrainSpecError` of all mistakes, if there are any."""
        if self.errors:
            raise TrainSpecError(*self.errors)
