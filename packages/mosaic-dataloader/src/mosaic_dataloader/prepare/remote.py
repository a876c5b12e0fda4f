"""Files in object stores, through mosaicml-streaming's clients and with their credentials."""

import os
import tempfile
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.opening import reason

# One attempt and its repetitions, a second, two and four apart.
_ATTEMPTS = 4
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


class RemoteStore:
    """Puts files under a URL, each by way of a local directory.

    Args:
        url: As mosaicml-streaming's writers take it.
        staging: Local directory for files on their way.

    Raises:
        MosaicDataError: There is no such store, or it cannot be reached.
    """

    def __init__(self, url: str, staging: Path):
        from streaming.base.storage.upload import UPLOADERS, CloudUploader

        scheme = url.split("://")[0]
        if scheme not in UPLOADERS:
            known = ", ".join(f"{name}://" for name in UPLOADERS if name and ":" not in name)
            raise MosaicDataError(
                f"prepare: output {url!r}: cannot write to {scheme}://; use a directory or {known}"
            )
        self.url = url.rstrip("/")
        self._staging = staging
        try:
            self._uploader: Any = CloudUploader.get(
                (str(staging), self.url), keep_local=False, retry=_ATTEMPTS, exist_ok=True
            )
        except Exception as error:
            # Each store's client has errors of its own.
            raise MosaicDataError(f"prepare: cannot write to {url}: {reason(error)}") from error

    def save(self, name: str, data: bytes) -> None:
        """Put a file; when this returns, it is there.

        Raises:
            MosaicDataError: It cannot be uploaded.
            OSError: It cannot be written on its way.
        """
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        try:
            self._uploader.upload_file(name)
        except Exception as error:
            # As above.
            raise MosaicDataError(
                f"prepare: cannot upload {self.url}/{name}: {reason(error)}; run the same command "
                f"again to go on"
            ) from error


def load(url: str) -> bytes | None:
    """Get a file; None if there is none.

    Raises:
        MosaicDataError: It cannot be fetched.
    """
    try:
        return fetch_bytes(url)
    except Exception as error:
        # As above.
        raise MosaicDataError(f"prepare: cannot read {url}: {reason(error)}") from error
