"""What counts as a user's mistake, and how it is reported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mosaic_trainspec import TrainSpecError

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2

# Where the other packages define their user-facing error. Looked up among loaded modules only: an
# error cannot come from a package that was never imported, and importing one here takes seconds.
_USER_ERRORS = (
    ("mosaic_config", "ConfigError"),
    ("mosaic_dataloader", "MosaicDataError"),
)


class TrainError(TrainSpecError):
    """Mistakes that the app itself finds; usually one."""


def is_user_error(error: BaseException) -> bool:
    """Whether the message alone says what the user is to change, so that no traceback is needed."""
    kinds: list[type[BaseException]] = [TrainSpecError]
    for module, name in _USER_ERRORS:
        kind = getattr(sys.modules.get(module), name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            kinds.append(kind)
    return isinstance(error, tuple(kinds))


def mistakes_in(error: BaseException) -> tuple[str, ...]:
    """The mistakes that an error reports, a line for each."""
    return getattr(error, "problems", None) or (str(error),)


@contextmanager
def naming_file(path: str | None) -> Iterator[None]:
    """Name the configuration file in each mistake of the user that is found inside.

    A mistake that begins with an option of the command line alone has nothing to do with the file.

    Raises:
        TrainError: In place of any error that is a user's mistake.
    """
    try:
        yield
    except Exception as error:
        if path is None or not is_user_error(error):
            raise
        lines = mistakes_in(error)
        raise TrainError(
            *(line if line.startswith("--") else f"{path}: {line}" for line in lines)
        ) from error


def print_error(error: BaseException) -> None:
    """Write a line for each mistake to stderr, in one call so that several ranks' do not mix."""
    lines = (" ".join(mistake.split("\n")).strip() for mistake in mistakes_in(error))
    sys.stdout.flush()
    sys.stderr.write("".join(f"error: {line}\n" for line in lines))
    sys.stderr.flush()
