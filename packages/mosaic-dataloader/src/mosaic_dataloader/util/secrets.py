"""Keeping secrets out of what is printed.

Addresses may carry a password or a signature, and the libraries of object stores quote addresses
in their errors.
"""

import os
import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

HIDDEN = "***"

# Environment variables that hold a secret, by the end of their names. (Those that name a file
# which holds one end in something else.)
_SECRET_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:secret|token|passw(?:or)?d|pass|sas|(?:api|access|account|secret|storage)_?key|"
    r"connection_string)$|^GCS_KEY$"
)
# Secrets of addresses that this process has seen. Libraries quote parts of an address without what
# shows that they are secret, as botocore does with a bucket's name.
_seen: set[str] = set()
# Shorter ones would also be found in words that are not secrets.
_SHORTEST_SECRET = 6

_RULES = (
    # scheme://user:password@host: who it is may be read, the password not. It may hold an "@".
    (re.compile(r"(://[^\s/:@'\"]*):[^\s/'\"]*@"), rf"\1:{HIDDEN}@"),
    # s3://key:secret@bucket: a secret of S3 may hold a "/". A port and a path are not one.
    (re.compile(r"(://[^\s/:@'\"]*):(?!\d+(?:/|\s))[^\s'\"@]*@"), rf"\1:{HIDDEN}@"),
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


def hide_secrets_of(address: str) -> None:
    """Remember the password and the query of an address, so that no message shows them."""
    scheme, _, rest = address.partition("://")
    place, _, query = rest.partition("?")
    found = [query, *query.split("&"), *(item.partition("=")[2] for item in query.split("&"))]
    credentials = place.partition(":")[2]
    # After sftp://host comes a port.
    if not (scheme == "sftp" and re.match(r"\d+(/|$)", credentials)):
        ends = [at.start() for at in re.finditer("@", credentials)]
        # A password may hold an "@", and so may the path.
        found += [credentials[:end] for end in ends]
        # One with a "/" is taken for a host and a path, and quoted in parts.
        found += credentials[: min(ends, default=0)].split("/")
    for secret in found:
        for spelling in (secret, unquote(secret), quote(unquote(secret), safe="")):
            if len(spelling) >= _SHORTEST_SECRET:
                _seen.add(spelling)


def redacted(text: str) -> str:
    """A text without passwords, signed queries, tokens and the values of secret variables."""
    variables = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name)
    }
    # The longest first: one may be part of another.
    for secret in sorted(variables | _seen, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
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
