"""Single files of a store, through mosaicml-streaming's clients and with their credentials."""

import os
import tempfile
from pathlib import Path
from typing import Any

_NOT_THERE = {403, 404}


def fetch_bytes(url: str, timeout: float = 60.0) -> bytes | None:
    """The contents of a remote file; None if there is none, or none that may be seen.

    Stores that do not let a user list answer "forbidden" for what is not there.

    Args:
        url: As mosaicml-streaming takes it.
        timeout: Seconds that it may take.

    Raises:
        Exception: What the store's client raises for anything else.
    """
    from streaming.base.storage.download import CloudDownloader

    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "file")
        try:
            CloudDownloader.direct_download(url, path, timeout)
        except Exception as error:
            if is_missing(error):
                return None
            raise
        return Path(path).read_bytes()


def is_missing(error: BaseException) -> bool:
    """Whether a store's error says that there is no such file.

    Each client has an error of its own, with the HTTP status in one of a few places.
    """
    if isinstance(error, FileNotFoundError):
        return True
    response = getattr(error, "response", None)
    found: list[Any] = [getattr(error, name, None) for name in ("code", "status_code", "status")]
    if isinstance(response, dict):
        found.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    else:
        found.append(getattr(response, "status_code", None))
    return any(isinstance(status, int) and status in _NOT_THERE for status in found)
