"""Files in object stores, through mosaicml-streaming's clients and with their credentials."""

from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.opening import reason
from mosaic_dataloader.remote_file import fetch_bytes
from mosaic_dataloader.shards.secrets import hide_secrets_of, printable, redacted

# One attempt and its repetitions, a second, two and four apart.
_ATTEMPTS = 4


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

        hide_secrets_of(url)
        scheme = url.split("://")[0]
        if scheme not in UPLOADERS:
            known = ", ".join(f"{name}://" for name in UPLOADERS if name and ":" not in name)
            raise MosaicDataError(
                f"prepare: output {redacted(url)!r}: cannot write to {scheme}://; use a directory "
                f"or {known}"
            )
        self.url = url.rstrip("/")
        self._staging = staging
        try:
            self._uploader: Any = CloudUploader.get(
                (str(staging), self.url), keep_local=False, retry=_ATTEMPTS, exist_ok=True
            )
        except Exception as error:
            # Each store's client has errors of its own.
            raise _error(f"cannot write to {url}", error) from printable(error)

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
            raise _error(
                f"cannot upload {self.url}/{name}", error, "; run the same command again to go on"
            ) from printable(error)


def load(url: str) -> bytes | None:
    """Get a file; None if there is none.

    Raises:
        MosaicDataError: It cannot be fetched.
    """
    try:
        return fetch_bytes(url)
    except Exception as error:
        # As above.
        raise _error(f"cannot read {url}", error) from printable(error)


def _error(what: str, error: Exception, advice: str = "") -> MosaicDataError:
    return MosaicDataError(redacted(f"prepare: {what}: {reason(error)}{advice}"))
