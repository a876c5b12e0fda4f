"""An S3 store over HTTP: moto's server, in a process of its own, as a client sees any endpoint."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# What boto3 must find somewhere; moto takes anything.
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "loopback-key",
    "AWS_SECRET_ACCESS_KEY": "loopback-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Otherwise a machine's own settings would reach the tests.
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[int]:
    """A running server; its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            _wait(server, port)
            yield port
        finally:
            server.kill()


@cache
def client(port: int) -> Any:
    """A client with the server's credentials, which leaves no checksums beside its objects."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        config=Config(request_checksum_calculation="when_required"),
    )


def upload(port: int, bucket: str, folder: Path) -> None:
    """Put a folder's files into a bucket, by their names."""
    store = client(port)
    store.create_bucket(Bucket=bucket)
    for path in sorted(folder.iterdir()):
        store.put_object(Bucket=bucket, Key=f"data/{path.name}", Body=path.read_bytes())
    # What moto adds of itself would hide from the tests what the loader checks.
    head = store.head_object(Bucket=bucket, Key="data/index.json", ChecksumMode="ENABLED")
    assert not any(name.startswith("Checksum") for name in head), head


def _wait(server: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the S3 server ended with code {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/data.json", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise RuntimeError("the S3 server did not start within a minute")
