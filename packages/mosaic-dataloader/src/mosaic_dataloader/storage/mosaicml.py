"""Private parts of mosaicml-streaming 0.13 that are used here, each with the reason for it.

Imported only where a stream with a remote is opened: importing streaming takes seconds.

- ``Stream._downloader``, in `new_downloader`: most stores' clients serve one thread, and a stream
  has only one. It can go when streaming has a public way to a downloader for each thread.
- ``S3Downloader._download_file_impl``, ``_create_s3_client``, ``_s3_client`` and
  ``_requester_pays_buckets``, in `S3Objects`: one request a file in place of one for each 8 MiB. It
  can go when streaming downloads an object by one request, with one client for all threads.
- ``SFTPDownloader._validate_remote_path``, ``_create_ssh_client`` and ``_ssh_client``, in
  `version_of`: size and time of a file over the connection that is open. It can go when a
  downloader can say them.

Beside this module, `streams` reads the weights of a ``Stream`` that is handed in (``_local``,
``_proportion``, ``_repeat``, ``_choose``), which say what its user has set.
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from streaming.base.storage.download import (
    CloudDownloader,
    LocalDownloader,
    S3Downloader,
    SFTPDownloader,
)

from mosaic_dataloader.storage.versions import Version
from mosaic_dataloader.util.secrets import hide_secrets_of
from mosaic_dataloader.util.store_errors import DownloadTimeoutError, is_not_found, is_permanent

if TYPE_CHECKING:
    from streaming import Stream

T = TypeVar("T")

# What is asked of a connection at a time: few enough calls to cost nothing, and often enough a
# look at the clock.
_CHUNK = 1 << 18
# Threads of a process that fetch at a time; a connection is kept for each.
_CONNECTIONS = 32
# Seconds before each further attempt to fetch a single file.
_PAUSES = (0.5, 1.0)
_GRACE_SECONDS = 5.0
# What S3's clients are made from.
_SETTINGS = ("AWS_", "S3_", "MOSAICML_STREAMING_AWS_")


def new_downloader(stream: "Stream") -> CloudDownloader:
    """A downloader of a stream that one thread may use: most stores' clients are not shared."""
    given = stream._downloader
    stock = CloudDownloader.get(stream.remote)
    if type(given) is S3Downloader:
        return shared_objects(client_timeout(stream))
    # One of the user's own is kept: nobody here knows how to make another.
    return stock if type(given) is type(stock) else given


def client_timeout(stream: "Stream") -> float:
    """Seconds after which a store's client gives up: later than whoever waits for it.

    If both had the same time, either could be first, and only the one who waits names
    ``download_timeout`` in its message.
    """
    return stream.download_timeout + _GRACE_SECONDS


def version_of(downloader: CloudDownloader, remote: str, timeout: float) -> Version | None:
    """Ask a store for the version of a file, by one request of its client.

    ``timeout`` is the seconds to wait for its answer, where its client takes that.

    Returns:
        None where the store cannot be asked.

    Raises:
        Exception: As the store's client raises it, for example because the file is missing.
    """
    if type(downloader) is LocalDownloader:
        found = os.stat(remote)
        # A copy that keeps times is a new file all the same.
        written = f"{found.st_ino}-{found.st_ctime_ns}"
        return Version(f"{found.st_size}-{found.st_mtime_ns}", written)
    if type(downloader) is SFTPDownloader:
        downloader._validate_remote_path(remote)
        url = urlsplit(remote)
        if downloader._ssh_client is None:
            downloader._create_ssh_client(url)
        assert downloader._ssh_client is not None
        with downloader._ssh_client.open_sftp() as client:
            attributes = client.stat(url.path)
        return Version(f"{attributes.st_size}-{attributes.st_mtime}")
    return downloader.version(remote, timeout) if isinstance(downloader, S3Objects) else None


def download(
    downloader: CloudDownloader, remote: str, path: str, timeout: float, *, ask: bool
) -> Version | None:
    """Download a file and return its version: the one that arrived or an earlier one.

    Never a later one: if the file is replaced in between, its old version stands beside the new
    bytes, and the next comparison finds that. To ``ask`` spends a request on the version where the
    download does not bring it along. ``timeout`` is in seconds.
    """
    if isinstance(downloader, S3Objects):
        downloader.download(remote, path, timeout)
        return downloader.arrived.pop(path, None)
    before = version_of(downloader, remote, timeout) if ask else None
    downloader.download(remote, path, timeout)
    return before


_shared: "dict[tuple[Any, ...], S3Objects]" = {}
_sharing = threading.Lock()


def shared_objects(timeout: float) -> "S3Objects":
    """The client of this process for the present environment; see `S3Objects`.

    Making one takes a tenth of a second and more, and one serves all threads and streams.
    """
    environment = sorted(item for item in os.environ.items() if item[0].startswith(_SETTINGS))
    key = (timeout, *environment)
    with _sharing:
        if key not in _shared:
            _shared[key] = S3Objects(timeout)
        return _shared[key]


def forget_shared() -> None:
    """Share no client made so far: those of another process have its connections."""
    global _sharing
    _sharing = threading.Lock()
    _shared.clear()


os.register_at_fork(after_in_child=forget_shared)


def fetch_bytes(url: str, timeout: float = 60.0) -> bytes | None:
    """The contents of a single file of a store; None if there is none, or none that may be seen.

    ``timeout`` is the seconds that one attempt may take.

    Raises:
        Exception: What the store's client raises for anything else.
    """
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


class S3Objects(S3Downloader):
    """S3 by one request per file, for all threads of a process.

    mosaicml-streaming's own asks for the size first and then gets 8 MiB at a time, one after
    another; its SDK tries each of these several times and has its own clock. Here a file is one
    request, which is tried once: the caller tries again.

    Credentials, endpoint (``S3_ENDPOINT_URL``) and requester-pays buckets
    (``MOSAICML_STREAMING_AWS_REQUESTER_PAYS``) are found as mosaicml-streaming finds them.

    Args:
        timeout: Seconds to wait for a connection, or for its next byte.

    Attributes:
        arrived: The version of each downloaded file, by its local path, until it is taken out.
    """

    def __init__(self, timeout: float):
        super().__init__()  # type: ignore[no-untyped-call]
        self.arrived: dict[str, Version] = {}
        self._guard = threading.Lock()
        # Before any clock runs: importing the SDK takes a second.
        self._client(timeout)

    def _download_file_impl(self, remote: str, local: str, timeout: float) -> None:
        self._request(lambda client: self._get(client, remote, local, timeout), timeout)

    def version(self, remote: str, timeout: float) -> Version:
        """The version of an object, by one request without its bytes."""
        address = self._object(remote)
        return self._request(lambda client: _version(client.head_object(**address)), timeout)

    def _request(self, send: Callable[[Any], T], timeout: float) -> T:
        """Send a request with the client, or unsigned where credentials do not help."""
        from botocore.exceptions import ClientError, NoCredentialsError

        client = self._client(timeout)
        try:
            return send(client)
        except NoCredentialsError:
            # Public buckets need none.
            return send(self._client(timeout, unsigned=True))
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            if status in (400, 403):
                # Credentials may have been renewed where they are kept; the next client looks.
                self._forget(client)
            if status != 400:
                raise
            # Credentials that a public bucket does not know.
            unsigned = self._client(timeout, unsigned=True)
            try:
                return send(unsigned)
            except ClientError:
                self._forget(unsigned)
                raise error from None

    def _forget(self, client: Any) -> None:
        with self._guard:
            if self._s3_client is client:
                self._s3_client = None

    def clean_up(self) -> None:
        """Keep the client: other threads use it, and it reconnects where it must."""

    def _get(self, client: Any, remote: str, local: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        answer = client.get_object(**self._object(remote))
        with contextlib.closing(answer["Body"]) as body, open(local, "wb") as out:
            # The body knows its length and refuses to end before.
            for chunk in body.iter_chunks(_CHUNK):
                out.write(chunk)
                if not os.path.exists(local):
                    # Given up by the thread that waited: more came than was expected.
                    raise DownloadTimeoutError("nobody waits for it any longer")
                # Nobody waits any longer; a connection that still trickles is let go.
                if time.monotonic() > deadline:
                    raise DownloadTimeoutError(f"it took longer than {timeout:g} s")
        self.arrived[local] = _version(answer)

    def _object(self, remote: str) -> dict[str, str]:
        url = urlsplit(remote)
        extra = {}
        if url.netloc in self._requester_pays_buckets:
            extra["RequestPayer"] = "requester"
        return {"Bucket": url.netloc, "Key": url.path.lstrip("/"), **extra}

    def _client(self, timeout: float, *, unsigned: bool = False) -> Any:
        with self._guard:
            if self._s3_client is None or unsigned:
                self._create_s3_client(unsigned=unsigned, timeout=timeout)
            return self._s3_client

    def _create_s3_client(self, unsigned: bool = False, timeout: float = 60) -> None:
        from boto3.session import Session
        from botocore import UNSIGNED
        from botocore.config import Config

        config = Config(
            read_timeout=timeout,
            connect_timeout=timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
            **({"signature_version": UNSIGNED} if unsigned else {}),
        )
        self._s3_client = Session().client(
            "s3", config=config, endpoint_url=os.environ.get("S3_ENDPOINT_URL")
        )


def _version(answer: dict[str, Any]) -> Version:
    # Seconds are all that LastModified has; a bucket with versions says more.
    written = f"{answer.get('LastModified')} {answer.get('VersionId', '')}"
    return Version(f"{answer.get('ContentLength')}-{answer.get('ETag')}", written)
