"""What counts as a user's mistake, and how it is told."""

import sys
from collections.abc import Sequence

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2

# Where the packages define their user-facing error. Looked up among loaded modules only: an error
# cannot come from a package that was never imported, and importing one here would cost seconds.
_USER_ERRORS = (
    ("mosaic_config", "ConfigError"),
    ("mosaic_dataloader", "MosaicDataError"),
    ("mosaic_dataloader.errors", "MosaicDataError"),
    ("mosaic_trainspec", "TrainSpecError"),
)


class TrainError(ValueError):
    """A mistake that the app itself finds; the message is one line that says what to change."""


class SeveralErrors(TrainError):
    """Mistakes that were found together.

    Args:
        errors: At least two, each with a message of one line.
    """

    def __init__(self, errors: Sequence[BaseException]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone tells the user what to change, so that no traceback is needed."""
    kinds: list[type[BaseException]] = [TrainError]
    for module, name in _USER_ERRORS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            kinds.append(kind)
    return isinstance(error, tuple(kinds))


def print_error(message: object) -> None:
    """Write a line for each mistake to stderr, in one call so that several ranks' do not mix."""
    mistakes = message.errors if isinstance(message, SeveralErrors) else (message,)
    lines = (" ".join(str(mistake).split("\n")).strip() for mistake in mistakes)
    sys.stdout.flush()
    sys.stderr.write("".join(f"error: {line}\n" for line in lines))
    sys.stderr.flush()
