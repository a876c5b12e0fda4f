"""Single files of a store, through mosaicml-streaming's clients and with their credentials."""

import os
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from mosaic_dataloader.util.secrets import hide_secrets_of
from mosaic_dataloader.util.store_errors import is_not_found, is_permanent

# Seconds before each further attempt.
_PAUSES = (0.5, 1.0)


def fetch_bytes(url: str, timeout: float = 60.0) -> bytes | None:
    """The contents of a remote file; None if there is none, or none that may be seen.

    ``timeout`` is the seconds that one attempt may take.

    Raises:
        Exception: What the store's client raises for anything else.
    """
    from streaming.base.storage.download import CloudDownloader

    from mosaic_dataloader.storage.mosaicml import shared_objects

    hide_secrets_of(url)
    # Making a client takes longer than a file does, and S3's serves all threads.
    shared = urlsplit(url).scheme == "s3"
    with tempfile.TemporaryDirectory() as directory:
        for attempt, pause in enumerate((*_PAUSES, None)):
            path = os.path.join(directory, f"{attempt}")
            downloader = shared_objects(timeout) if shared else CloudDownloader.get(url)
            try:
                downloader.download(url, path, timeout)
                return Path(path).read_bytes()
            except Exception as error:
                if is_not_found(error):
                    return None
                if pause is None or is_permanent(error):
                    raise
                time.sleep(pause)
            finally:
                downloader.clean_up()
    raise AssertionError("unreachable")
