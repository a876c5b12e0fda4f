"""S3 as shards want it. Imported only where a stream is there: it imports streaming."""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from streaming.base.storage.download import S3Downloader

from mosaic_dataloader.storage.versions import Version
from mosaic_dataloader.util.store_errors import DownloadTimeoutError

# What is asked of a connection at a time: few enough calls to cost nothing, and often enough a
# look at the clock.
_CHUNK = 1 << 18
# Threads of a process that fetch at a time; a connection is kept for each.
_CONNECTIONS = 32
# What S3's clients are made from.
_SETTINGS = ("AWS_", "S3_", "MOSAICML_STREAMING_AWS_")

_shared: "dict[tuple[Any, ...], S3Objects]" = {}
_sharing = threading.Lock()


def shared_objects(timeout: float) -> "S3Objects":
    """The client of this process for the present environment.

    Making one takes a tenth of a second and more, and one serves all threads and streams.

    Args:
        timeout: Seconds to wait for a connection, or for its next byte.
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


class S3Objects(S3Downloader):
    """S3 by one request per file, for all threads of a process.

    mosaicml-streaming's own asks for the size first and then gets 8 MiB at a time, one after
    another; its SDK tries each of these several times and has its own clock. Here a file is one
    request, which is tried once: whoever calls tries again.

    Credentials, endpoint (``S3_ENDPOINT_URL``) and requester-pays buckets
    (``MOSAICML_STREAMING_AWS_REQUESTER_PAYS``) are found as mosaicml-streaming finds them.

    Args:
        timeout: Seconds to wait for a connection, or for its next byte.

    Attributes:
        arrived: The version of each downloaded file, by its local path, until somebody takes it.
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
        found: list[Version] = []

        def head(client: Any) -> None:
            found.append(_version(client.head_object(**self._object(remote))))

        self._request(head, timeout)
        return found[-1]

    def _request(self, send: Callable[[Any], None], timeout: float) -> None:
        """Send a request with the client, or unsigned where credentials do not help."""
        from botocore.exceptions import ClientError, NoCredentialsError

        client = self._client(timeout)
        try:
            send(client)
        except NoCredentialsError:
            # Public buckets need none.
            send(self._client(timeout, unsigned=True))
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
                send(unsigned)
            except ClientError:
                self._forget(unsigned)
                raise error from None

    def _forget(self, client: Any) -> None:
        with self._guard:
            if self._s3_client is client:
                self._s3_client = None

    def clean_up(self) -> None:
        """Keep the client: other threads use it, and its connections are made anew by need."""

    def _get(self, client: Any, remote: str, local: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        answer = client.get_object(**self._object(remote))
        with contextlib.closing(answer["Body"]) as body, open(local, "wb") as out:
            # The body knows its length and refuses to end before.
            for chunk in body.iter_chunks(_CHUNK):
                out.write(chunk)
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
