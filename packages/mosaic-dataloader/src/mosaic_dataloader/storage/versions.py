"""What a store says about a file without sending its bytes: enough to notice that it was replaced.

S3, SFTP and directories say something here. Of the other stores the index itself is compared.
"""

import os
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from streaming.base.storage import CloudDownloader


class Version(NamedTuple):
    """One version of a file in a store.

    Attributes:
        content: Differs where the bytes differ: an ETag, or the size and time of a file.
        written: Differs where a file was written again, also with the same bytes.
    """

    content: str
    written: str = ""


def version_of(downloader: "CloudDownloader", remote: str, timeout: float) -> Version | None:
    """Ask a store for the version of a file.

    Args:
        downloader: Of the stream; one request of its client.
        remote: The file's address.
        timeout: Seconds to wait for the store's answer, where its client takes that.

    Returns:
        None where the store cannot be asked.

    Raises:
        Exception: As the store's client raises it, for example because the file is missing.
    """
    from streaming.base.storage.download import LocalDownloader, SFTPDownloader

    from mosaic_dataloader.storage.s3 import S3Objects

    if type(downloader) is LocalDownloader:
        return _of_file(os.stat(remote))
    if type(downloader) is SFTPDownloader:
        downloader._validate_remote_path(remote)
        url = urlsplit(remote)
        if downloader._ssh_client is None:
            downloader._create_ssh_client(url)
        assert downloader._ssh_client is not None
        with downloader._ssh_client.open_sftp() as client:
            found = client.stat(url.path)
        return Version(f"{found.st_size}-{found.st_mtime}")
    return downloader.version(remote, timeout) if isinstance(downloader, S3Objects) else None


def download(
    downloader: "CloudDownloader", remote: str, path: str, timeout: float, *, ask: bool
) -> Version | None:
    """Download a file and return its version: the one that arrived or an earlier one.

    Never a later one: if the file is replaced in between, its old version stands beside the new
    bytes, and the next comparison finds that.

    Args:
        downloader: Of the stream.
        remote: The file's address.
        path: Where to put it.
        timeout: Seconds that it may take.
        ask: Spend a request on the version where the download does not bring it along.
    """
    from mosaic_dataloader.storage.s3 import S3Objects

    if isinstance(downloader, S3Objects):
        downloader.download(remote, path, timeout)
        return downloader.arrived.pop(path, None)
    before = version_of(downloader, remote, timeout) if ask else None
    downloader.download(remote, path, timeout)
    return before


def _of_file(found: os.stat_result) -> Version:
    # A copy that keeps times is a new file all the same.
    return Version(f"{found.st_size}-{found.st_mtime_ns}", f"{found.st_ino}-{found.st_ctime_ns}")
