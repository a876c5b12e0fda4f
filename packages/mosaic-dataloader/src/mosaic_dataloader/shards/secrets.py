"""Keeping secrets out of what is printed.

Addresses may carry a password or a signature, and the libraries of object stores quote addresses
in their errors.
"""

import os
import re
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"

# Where these libraries look for secrets themselves: no message holds such a value.
_SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_ACCOUNT_ACCESS_KEY",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_CONNECTION_STRING",
    "DATABRICKS_TOKEN",
    "GCS_SECRET",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)
# Shorter ones would also be found in words that are none.
_SHORTEST_SECRET = 6

_RULES = (
    # scheme://user:password@host: who it is may be read, the password not. It may hold an "@".
    (re.compile(r"(://[^\s/:@'\"]*):[^\s/'\"]*@"), rf"\1:{HIDDEN}@"),
    # https://token@host
    (re.compile(r"(https?://)[^\s/@:'\"]+@"), rf"\1{HIDDEN}@"),
    # All of a query: signatures have many names.
    (re.compile(r"(\w://[^\s?'\"<>]*)\?[^\s'\"<>)]+"), rf"\1?{HIDDEN}"),
    # The same without a scheme, as urllib3 quotes it, and connection strings.
    (
        re.compile(
            r"(?i)\b((?:x-(?:amz|goog)-[\w-]+|sig|signature|\w*secret\w*|\w*(?:token|password)|"
            r"account_?key|sharedaccess(?:key|signature)|awsaccesskeyid)\s*=\s*)[^\s&;,'\"<>)]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:\w[\w-]*\s+)?)[^\s'\"]+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\bhf_[A-Za-z0-9]{8,}"), HIDDEN),
)


def redacted(text: str) -> str:
    """A text without passwords, signed queries, tokens and the values of secret variables."""
    for variable in _SECRET_VARIABLES:
        value = os.environ.get(variable, "")
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, HIDDEN)
    for pattern, instead in _RULES:
        text = pattern.sub(instead, text)
    return text


def printable(error: BaseException) -> BaseException | None:
    """An error as the cause of another one, or None if its traceback would print a secret."""
    seen: BaseException | None = error
    while seen is not None:
        if redacted(str(seen)) != str(seen):
            return None
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return error


def without_secrets(address: str) -> str:
    """An address without password and query: what stays when they are changed."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    user, at, host = parts.netloc.rpartition("@")
    return urlunsplit((parts.scheme, user.partition(":")[0] + at + host, parts.path, "", ""))
