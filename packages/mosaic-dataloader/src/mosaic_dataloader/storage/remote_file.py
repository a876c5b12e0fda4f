"""Single files of a store, through mosaicml-streaming's clients and with their credentials."""

import os
import tempfile
from pathlib import Path

from mosaic_dataloader.util.secrets import hide_secrets_of
from mosaic_dataloader.util.store_errors import is_not_found


def fetch_bytes(url: str, timeout: float = 60.0) -> bytes | None:
    """The contents of a remote file; None if there is none, or none that may be seen.

    Args:
        url: As mosaicml-streaming takes it.
        timeout: Seconds that it may take.

    Raises:
        Exception: What the store's client raises for anything else.
    """
    from streaming.base.storage.download import CloudDownloader

    hide_secrets_of(url)
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "file")
        try:
            CloudDownloader.direct_download(url, path, timeout)
        except Exception as error:
            if is_not_found(error):
                return None
            raise
        return Path(path).read_bytes()
