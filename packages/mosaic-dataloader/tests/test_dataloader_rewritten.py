"""A data set written again at the same remote is never mixed with what is cached of the old one."""

import filecmp
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataloader_helpers import loader, numbers, write_rows
from store_support.s3 import CREDENTIALS, client

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.storage import mosaicml, streams
from mosaic_dataloader.storage.layout import lock_path, use_byte
from mosaic_dataloader.storage.streams import warn_at_start
from mosaic_dataloader.storage.transfer import Transfers
from mosaic_dataloader.util.locks import locked

ROWS = 60
BUCKET = "rewritten"
Put = Callable[[Path], None]


@pytest.fixture(scope="module")
def port_of_bucket(s3_port: int) -> int:
    client(s3_port).create_bucket(Bucket=BUCKET)
    return s3_port


@pytest.fixture(params=["directory", "s3"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, Put]:
    """An address, and how to put a folder's files there in place of what is there."""
    if request.param == "directory":
        remote = tmp_path / "remote"
        remote.mkdir()

        def copy(folder: Path) -> None:
            for path in folder.iterdir():
                shutil.copy2(path, remote)

        return str(remote), copy
    port = request.getfixturevalue("port_of_bucket")
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")

    last = 0.0

    def upload(folder: Path) -> None:
        nonlocal last
        # The store notes whole seconds.
        time.sleep(max(0.0, int(last) + 1.05 - time.time()))
        for path in folder.iterdir():
            key = f"{tmp_path.name}/{path.name}"
            client(port).put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        last = time.time()

    return f"s3://{BUCKET}/{tmp_path.name}", upload


def rows(tmp_path: Path, first: int, **options: Any) -> Path:
    """A data set of shards that are as long as those of another ``first``."""
    out = tmp_path / f"rows-{first}"
    write_rows(out, range(first, first + ROWS), size_limit=1000, **options)
    return out


def read(remote: str, cache: Path, count: int = ROWS, **options: Any) -> list[int]:
    """The first rows of the data set, in order."""
    stream = {"web": {"remote": remote, "local": str(cache), "download_retry": 0}}
    one = loader(stream, shuffle=False, infinite=False, predownload=0, batch_size=4, **options)
    found: list[int] = []
    for batch in one:
        found += numbers(batch)
        if len(found) >= count:
            break
    one.close()
    one.dataset.close()
    return found


def refused(remote: str, cache: Path, *parts: str) -> None:
    with pytest.raises(MosaicDataError) as caught:
        read(remote, cache)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ('stream "web"', *parts)), message


def test_without_hashes_a_rewritten_data_set_is_noticed_by_what_the_store_says(
    store: tuple[str, Put], tmp_path: Path
) -> None:
    remote, put = store
    old, new = rows(tmp_path, 0), rows(tmp_path, 100)
    cache = tmp_path / "cache"
    assert filecmp.cmp(old / "index.json", new / "index.json", shallow=False), "nothing to test"
    put(old)
    assert read(remote, cache, 48) == list(range(48))
    # The same files put there again are the same data.
    put(old)
    assert read(remote, cache, 52) == list(range(52))
    put(new)
    for _ in range(2):  # nor is it taken the second time
        refused(remote, cache, str(cache), "index was written again", "shard.000", 'hashes=["xxh64')
    shutil.rmtree(cache)
    assert read(remote, cache) == list(range(100, 100 + ROWS))
    # What nobody noted a version of may be anything.
    (cache / ".mosaic" / "versions").unlink()
    put(new)
    if remote.startswith("s3:"):
        refused(remote, cache, "index was written again")
    (tmp_path / "again").mkdir()
    for path in new.iterdir():
        shutil.copy(path, tmp_path / "again")
    put(tmp_path / "again")
    refused(remote, cache, "index was written again")


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_with_hashes_it_is_noticed_at_the_next_start(
    store: tuple[str, Put], tmp_path: Path, compression: str | None
) -> None:
    remote, put = store
    options = {"hashes": ["sha1", "xxh64"], "compression": compression}
    old, new = rows(tmp_path, 0, **options), rows(tmp_path, 100, **options)
    cache = tmp_path / "cache"
    put(old)
    assert read(remote, cache, 40) == list(range(40))
    put(old)
    assert read(remote, cache, 44) == list(range(44))
    put(new)
    refused(remote, cache, str(cache), "indexes differ", "delete that directory")
    # Its shards do not come in by the old index, either.
    shutil.rmtree(cache)
    put(old)
    assert read(remote, cache, 20) == list(range(20))
    for path in new.glob("shard.*"):
        shutil.copy(path, old)
    put(old)
    with pytest.raises(
        MosaicDataError, match=r"(xxh64 is not the one in the|bytes arrived where the) index"
    ):
        read(remote, cache)


def test_a_cached_shard_of_another_hash_is_replaced_before_its_first_use(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A shard's header says which hashes it has: only with the same ones are both as long.
    old, new = (rows(tmp_path, first, hashes=["md5", "xxh3_64"]) for first in (0, 100))
    cache = tmp_path / "cache"
    assert read(str(old), cache) == list(range(ROWS))
    assert not caplog.records, "with hashes there is nothing to say"
    for path in sorted(new.glob("shard.*"))[2:4]:
        assert path.stat().st_size == (cache / path.name).stat().st_size, "nothing to test"
        shutil.copy(path, cache)
    for _ in range(2):
        assert read(str(old), cache) == list(range(ROWS))
    told = [r.getMessage() for r in caplog.records if "is fetched again" in r.getMessage()]
    assert len(told) == 2


def test_a_store_that_is_back_is_compared_before_anything_comes_from_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = rows(tmp_path, 0), rows(tmp_path, 100)
    remote, cache = tmp_path / "remote", tmp_path / "cache"
    shutil.copytree(old, remote)
    assert read(str(remote), cache, 20) == list(range(20))
    shutil.rmtree(remote)
    stream = {"web": {"remote": str(remote), "local": str(cache), "download_retry": 0}}
    one = loader(stream, shuffle=False, predownload=0, batch_size=4)
    assert "Continuing with the one in" in caplog.text
    shutil.copytree(new, remote)
    found: list[int] = []
    with pytest.raises(MosaicDataError, match="index was written again"):
        for batch in one:
            found += numbers(batch)
    # Whatever was cached at first, and nothing else.
    assert 20 <= len(found) < ROWS
    assert found == list(range(len(found)))
    one.close()


@pytest.mark.parametrize("hashes", [None, ["xxh64"]])
def test_a_cache_that_cannot_be_written_is_compared_too(
    store: tuple[str, Put],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hashes: list[str] | None,
) -> None:
    remote, put = store
    cache = tmp_path / "cache"
    old, new = rows(tmp_path, 0, hashes=hashes), rows(tmp_path, 100, hashes=hashes)
    put(old)
    assert read(remote, cache) == list(range(ROWS))
    before = {path: path.stat() for path in cache.rglob("*")}
    # Tests may run as root, who may write everywhere.
    monkeypatch.setattr(streams.os, "access", lambda path, mode: False)
    assert read(remote, cache) == list(range(ROWS))
    put(old)
    assert read(remote, cache) == list(range(ROWS))
    put(new)
    refused(remote, cache, "caches other data than", "indexes differ" if hashes else "shard.00000")
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == {
        path: info.st_mtime_ns for path, info in before.items()
    }
    if not remote.startswith("s3:"):
        shutil.rmtree(remote)
        assert read(remote, cache) == list(range(ROWS))
        assert "Continuing with the one in" in caplog.text


def test_a_download_that_brings_more_than_the_index_says_is_ended_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = rows(tmp_path, 0)
    written: list[int] = []

    def endless(downloader: Any, address: str, path: str, timeout: float, *, ask: bool) -> None:
        if address.endswith(".json"):
            shutil.copy(address, path)
            return
        with open(f"{path}.tmp", "wb") as out:
            while os.path.exists(f"{path}.tmp") and len(written) < 1000:
                written.append(out.write(bytes(1000)))
                out.flush()
                time.sleep(0.01)

    monkeypatch.setattr(mosaicml, "download", endless)
    with pytest.raises(MosaicDataError, match=r"at least \d+ bytes arrived where the index says"):
        read(str(remote), tmp_path / "cache")
    assert len(written) < 500
    assert not list((tmp_path / "cache").glob("*.mds"))


def test_a_shard_that_somebody_evicts_for_long_keeps_nobody_from_the_others(
    tmp_path: Path,
) -> None:
    """As where the one that evicts it was stopped in the middle of that."""
    remote, cache = rows(tmp_path, 0), tmp_path / "cache"
    stream = {"web": {"remote": str(remote), "local": str(cache)}}
    shards = loader(stream, shuffle=False).dataset.store
    with shards.reading(0), shards.reading(1):
        pass
    shards.close()
    opened = threading.Event()

    def read_first() -> None:
        with shards.reading(0):
            opened.set()

    with locked(lock_path(str(cache)), use_byte(0)):
        waiting = threading.Thread(target=read_first)
        waiting.start()
        assert not opened.wait(0.3)
        begun = time.monotonic()
        with shards.reading(1):
            assert not opened.is_set()
        assert time.monotonic() - begun < 10
    waiting.join(30)
    assert opened.is_set()
    shards.close()


def test_ranks_that_start_together_share_a_comparison_that_began_after_they_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store says nothing of versions, each comparison downloads the index."""
    remote, cache = str(rows(tmp_path, 0)), tmp_path / "cache"
    read(remote, cache, 4)
    asked: list[str] = []
    plain = Transfers.download

    def count(self: Transfers, file: str, *given: Any, **options: Any) -> Any:
        asked.append(file)
        return plain(self, file, *given, **options)

    monkeypatch.setattr(Transfers, "version", lambda self, file: None)
    monkeypatch.setattr(Transfers, "download", count)
    noted = cache / ".mosaic" / "checked"

    def start_while_others_end(ended: int) -> int:
        """Comparisons made by one that asked before so many others ended."""
        from mosaic_dataloader.storage import index as module

        number, *_ = json.loads(noted.read_text())
        real, looks = module._read_checked, iter([-ended, 0])

        def read_checked(directory: str) -> Any:
            found = real(directory)
            return module._Checked(found.number + next(looks, 0), found.reached, found.version)

        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, "_read_checked", read_checked)
            read(remote, cache, 4)
        assert json.loads(noted.read_text())[0] in (number, number + 1)
        return asked.count("index.json")

    assert [start_while_others_end(n) for n in (0, 1, 2, 3)] == [1, 1, 0, 0]


def test_streams_without_hashes_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    warn_at_start.cache_clear()
    plain, hashed = str(rows(tmp_path, 0)), str(rows(tmp_path, 100, hashes=["xxh64"]))
    streams = {
        name: {"remote": remote, "local": str(tmp_path / name)}
        for name, remote in [("one", plain), ("two", hashed), ("three", plain)]
    }
    streams["in place"] = {"local": plain}
    for _ in range(2):
        loader(streams).close()
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1, told
    assert told[0].startswith('streams "one", "three": the index has no hashes')
    assert 'hashes=["xxh64"]' in told[0]
    assert os.listdir(tmp_path / "one") != []
