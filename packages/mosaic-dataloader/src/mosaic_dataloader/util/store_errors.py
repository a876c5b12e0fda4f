"""What went wrong on the way from a store: whether another try may help, and what a user can do.

Each store's library has its own errors. They are told apart by what they have in common, a status
and a name, so that none of the libraries has to be imported for it.
"""

import errno
import http
from collections.abc import Iterator

from mosaic_dataloader.util.secrets import redacted

# HTTP statuses of 400 and more below 500 that pass: timeouts, "too early", "too many requests".
_PASSING_STATUSES = (408, 425, 429)
# Codes that S3 and its like send with status 400 or 403 and that pass.
_PASSING_CODES = (
    "BadDigest",
    # Looked up again for the next try.
    "ExpiredToken",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
)
_DENIED_STATUSES = (401, 403)
_MISSING_STATUSES = (404, 410)

# By class name, also of a base class.
_DENIED = (
    "AuthenticationException",  # paramiko
    "BadHostKeyException",
    "ClientAuthenticationError",  # azure
    "ConfigFileNotFound",  # oci
    "CredentialRetrievalError",  # botocore
    "DefaultCredentialsError",  # google
    "InvalidConfig",  # oci
    "InvalidHostKey",  # paramiko
    "NoCredentialsError",  # botocore
    "PartialCredentialsError",
    "ProfileNotFound",
    "RefreshError",  # google
)
# What the program or its options are wrong in.
_MISTAKES = ("ImportError", "ParamValidationError", "TypeError", "ValueError")
# Some libraries quote a whole answer, or a whole file.
_LONGEST_TEXT = 1000
# Local trouble that a second try meets again.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EROFS,)
_PERMANENT = (*_FULL, *_UNWRITABLE, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)


class CorruptShardError(Exception):
    """What arrived is not what the index says."""


class InvalidIndexError(ValueError):
    """An index is not a valid index of shards; downloading it again would not help."""


class DownloadTimeoutError(Exception):
    """A download took longer than it may."""


def one_line(error: BaseException, longest: int = _LONGEST_TEXT) -> str:
    """An error's type and text on one line, cut to so many characters, without secrets."""
    # More follows it.
    text = redacted(" ".join(str(error).split())).rstrip(".")
    # boto3 tries once here; the number of all attempts is reported beside it.
    text = text.replace(" (reached max retries: 0)", "")
    if len(text) > longest:
        text = f"{text[:longest]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def is_permanent(error: BaseException) -> bool:
    """Whether another attempt would fail alike: a file is missing, access denied, or a mistake."""
    if isinstance(error, CorruptShardError | DownloadTimeoutError):
        return False
    if _status_code(error) in _PASSING_CODES:
        return False
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING_STATUSES
    if _is_a(error, *_DENIED, *_MISTAKES):
        return True
    if "known_hosts" in str(error):
        # paramiko has only its general error for a host that is not known.
        return True
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    return isinstance(error, OSError) and error.errno in _PERMANENT


def is_not_found(error: BaseException) -> bool:
    """Whether a store says that there is no such file, or none that may be seen.

    Stores that do not let a user list answer "forbidden" for what is not there.
    """
    status = _status(error)
    if status is None:
        return isinstance(error, FileNotFoundError)
    return status in (*_MISSING_STATUSES, 403) and is_permanent(error)


def hint(error: BaseException, directory: str) -> str:
    """What the user can do about the error that ended the last try."""
    if isinstance(error, CorruptShardError | InvalidIndexError) or _is_a(
        error, "FlexibleChecksumError"
    ):
        return "restore it in the store, or write its index again"
    if isinstance(error, DownloadTimeoutError):
        return "see why the store is slow, or raise download_timeout"
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL:
        return f"free space on the disk of {directory}, or set cache_limit"
    is_local = isinstance(error, OSError) and str(error.filename or "").startswith(directory)
    if number in _UNWRITABLE or (isinstance(error, PermissionError) and is_local):
        return f"make {directory} writable, or choose another local or cache_dir"
    status = _status(error)
    if status in _MISSING_STATUSES or isinstance(error, FileNotFoundError):
        return "restore it in the store, or correct remote"
    denied = status in _DENIED_STATUSES or _is_a(error, *_DENIED)
    if denied or isinstance(error, PermissionError) or "known_hosts" in str(error):
        return "correct the credentials, or what they may read"
    if is_permanent(error):
        return "correct remote or the store's settings"
    return "see whether the store works, or raise download_retry"


def _is_a(error: BaseException, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The HTTP status that a store answered with, if it did."""
    for status in _statuses(error):
        # Some are an enumeration's members, which are integers; True is one, too.
        if isinstance(status, int | http.HTTPStatus) and 400 <= status < 600:
            return int(status)
    return None


def _statuses(error: BaseException) -> Iterator[object]:
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        # botocore
        yield response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    # requests, httpx and huggingface_hub; azure; oci; google
    yield getattr(response, "status_code", None)
    yield getattr(error, "status_code", None)
    yield getattr(error, "status", None)
    yield getattr(error, "code", None)


def _status_code(error: BaseException) -> str:
    """The store's own word for what went wrong, as botocore hands it on."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return ""
    return str(response.get("Error", {}).get("Code", ""))
