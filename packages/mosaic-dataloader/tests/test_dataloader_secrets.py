"""Passwords, signatures and tokens are in no message, log, traceback or state."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from dataloader_helpers import loader, take, write_rows
from hypothesis import given
from hypothesis import strategies as st
from streaming.base.storage.download import CloudDownloader, S3Downloader

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.storage import transfer
from mosaic_dataloader.util.secrets import hide_secrets_of, redacted, without_secrets

SECRET = st.text("abcdefXYZ0189%+_~.-", min_size=8, max_size=40)
# A password in an address may hold what ends one elsewhere.
PASSWORD = st.text("abcXYZ019%+_~.-@:!$&", min_size=8, max_size=40)


@given(
    SECRET,
    PASSWORD,
    st.sampled_from(
        [
            "cannot read sftp://user:{password}@host:22/a/b",
            "'sftp://user:{password}@host/a': refused",
            "https://{secret}@host/path is gone",
            "https://bucket.host/key?X-Amz-Credential=A&X-Amz-Signature={secret}&X-Amz-Date=1",
            "https://account.blob.core.windows.net/c/b?sv=1&se=2&sig={secret} (404)",
            "Max retries exceeded with url: /c/b?sp=r&sig={secret} (Caused by it)",
            "url: /bucket/key?X-Amz-Date=1&X-Amz-Signature={secret}&partNumber=1",
            "AccountName=me;AccountKey={secret};EndpointSuffix=core",
            "headers {{'Authorization': 'Bearer {secret}'}}",
            "aws_secret_access_key = {secret}",
        ]
    ),
)
def test_no_text_tells_a_secret(secret: str, password: str, pattern: str) -> None:
    text = redacted(pattern.format(secret=secret, password=password))
    assert secret not in text
    assert f":{password}@" not in text
    assert password not in text or password in pattern
    assert redacted(text) == text, "stable"


@given(st.sampled_from(["s3", "gs", "sftp", "azure"]), PASSWORD)
def test_an_address_without_secrets_is_the_same_place(scheme: str, password: str) -> None:
    assert without_secrets(f"{scheme}://user:{password}@host/a/b?sig={password}") == (
        f"{scheme}://user@host/a/b"
    )


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/folder: An error occurred (NoSuchKey) when calling the GetObject operation",
        "oci://bucket@namespace/prefix is gone",
        "is it there? see https://example.org/a/b.html",
        "tokens = 2049 and seq_len = 2048",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_secrets_of_an_address_and_of_the_environment_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = Path(write_rows(tmp_path / "data", range(100), size_limit=1000))
    answer: list[Callable[[], None]] = []

    def download(self: Any, remote: str, local: str, timeout: float) -> None:
        if "shard.00004" in remote and answer:
            answer[0]()
        Path(local).write_bytes((data / Path(remote.partition("?")[0]).name).read_bytes())

    class Signed(S3Downloader):
        _download_file_impl = download

    def refuse() -> None:
        try:
            raise OSError("url: https://host/shard?X-Amz-Signature=s1gn4tur3&a=b")
        except OSError as error:
            raise RuntimeError("key topsecretkey of sftp://u:p4ssw0rd@host is wrong") from error

    get = CloudDownloader.get
    monkeypatch.setattr(CloudDownloader, "get", lambda remote=None: Signed())
    monkeypatch.setattr(transfer, "_FIRST_PAUSE", 0.01)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "topsecretkey")
    caplog.set_level(logging.INFO)
    remote = "s3://user:p4ssw0rd@bucket/data"
    stream = {"s": {"remote": remote, "local": str(tmp_path / "cache"), "download_retry": 1}}
    one = loader(stream, shuffle=False)
    answer.append(refuse)
    with pytest.raises(MosaicDataError) as caught:
        take(iter(one), 12)
    one.close()
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + str(one.state_dict())
    assert "trying again" in caplog.text
    assert "s3://user:***@bucket/data" in str(caught.value)
    assert not [s for s in ("p4ssw0rd", "topsecretkey", "s1gn4tur3") if s in told], told
    # A cache that was made by the address stays the same when the password changes.
    answer.clear()
    caches = set()
    for password in ("p4ssw0rd", "another1"):
        stream = {"s": {"remote": f"s3://user:{password}@bucket/data"}}
        caches.add(loader(stream, cache_dir=str(tmp_path / "by-name")).dataset.streams[0].directory)
    assert len(caches) == 1
    monkeypatch.setattr(CloudDownloader, "get", get)
    # Not written out in the call: tracebacks quote it.
    nowhere = {"s": {"remote": remote.replace("s3:", "gopher:"), "local": str(tmp_path / "x")}}
    with pytest.raises(MosaicDataError) as caught:
        loader(nowhere)
    told = "".join(traceback.format_exception(caught.value))
    assert "gopher://user:***@bucket/data" in told
    assert "p4ssw0rd" not in told


# As S3 makes them: with "/" and "+" in it.
KEYS = st.text("abcXYZ019/+", min_size=20, max_size=40).filter(lambda k: not k.startswith("/"))


@given(KEYS, st.sampled_from(["s3", "gs", "azure", "oci", "https", "sftp"]))
def test_the_secret_of_an_address_is_in_no_text_however_it_is_quoted(key: str, scheme: str) -> None:
    secret = f"x{key}x"
    address = f"{scheme}://AKIAUSER:{secret}@bucket/data?sig={secret}"
    hide_secrets_of(address)
    for text in (
        f"cannot read {address}",
        f'Invalid bucket name "AKIAUSER:{secret}@bucket": it must match',
        f"Could not connect to host {secret}@bucket",
        f"no such key: {secret}",
        # What parsers take such an address for.
        f"host {urlsplit(address).netloc}, path {urlsplit(address).path}",
        f"quoted {quote(secret, safe='')} or {quote(secret)}",
    ):
        told = redacted(text)
        assert secret not in told
        assert all(part not in told for part in secret.split("/") if len(part) > 5), told
        assert quote(secret, safe="") not in told


def test_ports_and_paths_are_not_secrets() -> None:
    for address in ("sftp://host:2222/some/path@x", "s3://bucket/some:path/x@y", "/local:some/x@y"):
        hide_secrets_of(address)
    text = "sftp://host:2222/some/path@x, path@x and /local:some/x@y"
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GCS_SECRET")),
        *((name, True) for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_CLIENT_SECRET")),
        *((name, True) for name in ("AZURE_ACCOUNT_ACCESS_KEY", "DATABRICKS_TOKEN", "HF_TOKEN")),
        *((name, True) for name in ("WANDB_API_KEY", "MY_STORE_PASSWORD", "SSH_PASS")),
        *((name, False) for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")),
        *((name, False) for name in ("TOKENIZERS_PARALLELISM", "PWD", "MONKEY", "COMPASS")),
    ],
)
def test_secrets_of_the_environment_by_their_kind(
    name: str, secret: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "v4lue-of-it")
    assert ("v4lue-of-it" not in redacted("the store said v4lue-of-it is wrong")) is secret


def test_the_sdk_quotes_a_bucket_with_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was meant as credentials is taken for the bucket's name, and quoted as such."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    for secret in ("wJalrXUtnFEMIK7MDENG", "wJalrXUtn/FEMIK7MDENG+bPx"):
        remote = f"s3://AKIAIOSFODNN7:{secret}@bucket/data"
        stream = {"s": {"remote": remote, "local": str(tmp_path / "cache"), "download_retry": 0}}
        with pytest.raises(MosaicDataError) as caught:
            loader(stream)
        told = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert "bucket" in str(caught.value)
        assert not [part for part in (secret, *secret.split("/")) if part in told], told
