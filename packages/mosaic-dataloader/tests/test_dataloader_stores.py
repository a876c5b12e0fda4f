"""Real stores on loopback: S3 by boto3 over HTTP, SFTP by an OpenSSH server."""

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dataloader_helpers import Ranks, joined, loader, numbers, take, write_rows
from disk_watch import DiskWatch
from reader_processes import Job
from store_support.proxy import Fault, Proxy
from store_support.s3 import CREDENTIALS, upload
from store_support.sftp import SftpServer, server_program, sftp_server

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.reading import stalls
from mosaic_dataloader.storage import transfer
from mosaic_dataloader.util import threads

ROWS = 400
REMOTE = "s3://bucket-of-rows/data"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """34 packed shards of 12 rows, with hashes."""
    folder = tmp_path_factory.mktemp("rows") / "data"
    write_rows(folder, range(ROWS), size_limit=1200, compression="zstd", hashes=["sha1"])
    return folder


@pytest.fixture(scope="module")
def server(rows: Path, s3_port: int) -> int:
    upload(s3_port, "bucket-of-rows", rows)
    return s3_port


@pytest.fixture
def s3(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy before an S3 store, found as mosaicml-streaming finds it."""
    proxy = Proxy(server)
    for name, value in environment(proxy).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(transfer, "_FIRST_PAUSE", 0.02)
    yield proxy
    proxy.close()


def environment(proxy: Proxy) -> dict[str, str]:
    return {**CREDENTIALS, "S3_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}


def shard_requests(proxy: Proxy) -> Counter[bytes]:
    """How often each shard was asked for."""
    return Counter(line for line in proxy.requests if b"shard." in line)


def leftovers(cache: Path) -> list[str]:
    """What is in a cache beside shards, index, lock, leases and the time of the last check."""
    own = ("index.json", "lock", "checked")
    files = [p for p in cache.rglob("*") if p.is_file()]
    return [p.name for p in files if p.suffix not in (".mds", ".zstd") and p.name not in own]


def test_ranks_on_s3_read_as_from_a_directory_and_fetch_each_shard_once(
    s3: Proxy, rows: Path, tmp_path: Path, start: Callable[..., Job]
) -> None:
    options = {"validate_hash": "sha1"}
    job = {"remote": REMOTE, "local": tmp_path / "cache", "batches": 40, "ranks": 2}
    jobs = [
        start(**job, rank=rank, workers=rank, environment=environment(s3), options=options)
        for rank in range(2)
    ]
    found = [one.finish() for one in jobs]
    wanted = Ranks(str(rows), 2, shuffle_block_size=100, cache_dir=str(tmp_path / "plain")).batches(
        40
    )
    assert found == [[row for batch in wanted for row in batch[rank]] for rank in range(2)]
    asked = shard_requests(s3)
    assert len(asked) == len(list(rows.glob("*.zstd")))
    assert set(asked.values()) == {1}
    assert all(line.startswith(b"GET ") for line in asked), "one request is enough"
    assert leftovers(tmp_path / "cache") == []


def test_a_run_on_s3_goes_on_with_other_ranks(s3: Proxy, rows: Path, tmp_path: Path) -> None:
    wanted = [joined(b) for b in Ranks(str(rows), 1, batch_size=8).batches(80)]
    stream = {"s": {"remote": REMOTE, "local": str(tmp_path / "cache")}}
    found, state = [], None
    # Every life has an empty cache, and asks the store anew.
    for world in (1, 2, 4, 1):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        ranks = Ranks(stream, world, batch_size=8 // world)
        if state:
            ranks.load(state)
        found += [joined(b) for b in ranks.batches(20)]
        state = ranks.state
        ranks.close()
    assert found == wanted


def test_a_small_cache_on_s3_holds_its_limit_for_two_processes(
    s3: Proxy, tmp_path: Path, small_disk: Path, start: Callable[..., Job]
) -> None:
    """Packed and unpacked forms, seen from outside, unlinked files that are mapped included."""
    cache = small_disk / "cache"
    big = tmp_path / "big"
    write_rows(big, range(200), length=4000, size_limit=130_000, compression="zstd")
    upload(s3.upstream, "bucket-of-long-rows", big)
    index = (big / "index.json").stat().st_size
    limit = index + 6 * 160_000
    job = {"remote": "s3://bucket-of-long-rows/data", "local": cache, "batches": 50}
    with DiskWatch(small_disk) as watch:
        jobs = [
            start(**job, cache_limit=limit, workers=workers, environment=environment(s3))
            for workers in (0, 1)
        ]
        found = [one.finish() for one in jobs]
    assert found[0] == found[1]
    assert set(Counter(found[0]).values()) == {2}
    assert limit // 2 < max(watch.seen) <= limit + DiskWatch.SLACK
    assert sum(shard_requests(s3).values()) > 2 * len(list(big.glob("*.zstd"))), "not evicted"


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_counters_are_those_of_the_stores_own_log(
    s3: Proxy, rows: Path, tmp_path: Path, workers: int
) -> None:
    others = tmp_path / "others"
    write_rows(others, range(ROWS, ROWS + 60), size_limit=1200)
    upload(s3.upstream, f"bucket-of-others-{workers}", others)
    streams = {
        "rows": {"remote": REMOTE, "local": str(tmp_path / "rows")},
        "others": {
            "remote": f"s3://bucket-of-others-{workers}/data",
            "local": str(tmp_path / "cached"),
        },
    }
    sizes = {
        "rows": {path.name: path.stat().st_size for path in rows.glob("*.zstd")},
        "others": {path.name: path.stat().st_size for path in others.glob("*.mds")},
    }
    s3.fault = Fault("status", b"/bucket-of-rows/data/shard.00003", status=503, times=2)

    def read(**options: Any) -> tuple[dict[str, float], list[bytes]]:
        asked = len(s3.requests)
        one = loader(streams, shuffle=False, infinite=False, num_workers=workers, **options)
        assert [n for batch in one for n in numbers(batch)] == list(range(ROWS + 60)) + [-1] * 4
        one.close()
        counted = one.loading_counters()
        assert counted["batches_ready"] == counted["texts_encoded"] == 0
        assert 0 < counted["wait_seconds"] < 60
        return counted, s3.requests[asked:]

    def of_the_log(requests: list[bytes]) -> dict[str, int]:
        found: Counter[str] = Counter()
        for stream, bucket in (("rows", "of-rows/"), ("others", "of-others")):
            for line in requests:
                name = line.decode().split()[1].rpartition("/")[2].partition("?")[0]
                if bucket in line.decode() and name in sizes[stream]:
                    found[f"{stream}/shards_fetched"] += 1
                    found[f"{stream}/bytes_fetched"] += sizes[stream][name]
        return dict(found)

    counted, requests = read(drop_last=False)
    expected = of_the_log(requests)
    # The store refused the shard twice, and sent nothing of it.
    assert s3.fault.struck == counted["retries"] == 2
    expected["rows/shards_fetched"] -= 2
    expected["rows/bytes_fetched"] -= 2 * sizes["rows"]["shard.00003.mds.zstd"]
    assert {name: counted[name] for name in expected} == expected
    assert expected["rows/shards_fetched"] == len(sizes["rows"])
    assert counted["evictions"] == 0

    again, requests = read(drop_last=False)
    assert of_the_log(requests) == {}
    assert {again[name] for name in expected} == {0}
    assert again["cache_hits"] == len(sizes["rows"]) + len(sizes["others"])
    opened, _ = read(drop_last=False, predownload=0)
    assert opened["cache_hits"] >= again["cache_hits"]

    for stream in streams.values():
        shutil.rmtree(stream["local"])
    indexes = sum((folder / "index.json").stat().st_size for folder in (rows, others))
    limited, requests = read(drop_last=False, cache_limit=indexes + 16_000)
    expected = of_the_log(requests)
    assert {name: limited[name] for name in expected} == expected
    left = [p for one in streams.values() for p in Path(one["local"]).glob("*.mds")]
    fetched = limited["rows/shards_fetched"] + limited["others/shards_fetched"]
    assert limited["evictions"] == fetched - len(left) > 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_hangs_is_named_until_the_batch_comes(
    s3: Proxy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    monkeypatch.setattr(stalls, "_AGAIN_SECONDS", 0.4)
    caplog.set_level("DEBUG", logger=stalls.logger.name)
    fault = Fault("stall", b"shard.00002", times=2 - workers)
    stream = {"web": {"remote": REMOTE, "local": str(tmp_path / "cache"), "download_timeout": 2.0}}
    one = loader(stream, shuffle=False, num_workers=workers, stall_warning=0.6, infinite=False)
    iterator = iter(one)
    s3.fault = fault
    found = [n for batch in iterator for n in numbers(batch)]
    one.close()
    assert found == list(range(ROWS))
    lines = [r.getMessage() for r in caplog.records if r.name == stalls.logger.name]
    reported = [line for line in lines if line.startswith("no batch for ")]
    # A worker that makes its first client may be waited for as well.
    told = [line for line in reported if "shard.00002" in line]
    shard = 'waiting for stream "web", shard shard.00002.mds from s3://bucket-of-rows/data, '
    attempts = [line.partition(shard)[2].partition(",")[0] for line in told]
    wanted = ["attempt 1 of 3"] if workers else ["attempt 1 of 3", "attempt 2 of 3"]
    assert list(dict.fromkeys(attempts))[: len(wanted)] == wanted, told
    assert len(told) > len(wanted), "not again"
    assert "s ago by this process; 0 of " in told[0]
    # It goes away when the batch comes.
    came = [line for line in lines if line.startswith("the batch came after ")]
    assert came[-1] == lines[-1]
    assert len(came) <= 2
    dumps = [line for line in lines if line.startswith("threads of this process:\n")]
    assert len(dumps) == len(reported)
    assert all("prefetch.py" in dump and "Thread 0x" in dump for dump in dumps)
    assert one.loading_counters()["wait_seconds"] > 1.5


PASSING = {
    "internal error": Fault("status", status=500, times=2),
    "slow down": Fault("status", status=503, times=2),
    "reset in the middle": Fault("reset", after=500, times=2),
    "ends too soon": Fault("close", after=500, times=2),
    "flipped byte": Fault("flip", after=600, times=2),
    "stall before the answer": Fault("stall", times=1),
    "stall in the middle": Fault("stall", after=500, times=1),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(
    s3: Proxy, tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault = PASSING[name]
    fault.match, fault.struck = b"shard.00003", 0
    s3.fault = fault
    options = {"download_timeout": 4.0 if fault.kind == "stall" else 60.0, "validate_hash": "sha1"}
    stream = {"web": {"remote": REMOTE, "local": str(tmp_path / "cache")}}
    one = loader(stream, shuffle=False, infinite=False, predownload=0, **options)
    assert [n for batch in one for n in numbers(batch)] == list(range(ROWS))
    assert fault.struck == fault.times
    told = [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()]
    assert len(told) == fault.times
    assert all('stream "web", shard shard.00003.mds from s3://' in line for line in told)


LASTING = {
    # fault, options, tries, words of the message
    "missing": (Fault("status", status=404), {}, 1, ["NoSuchKey", "correct remote"]),
    "denied": (Fault("status", status=403), {}, 1, ["AccessDenied", "credentials"]),
    "busy": (Fault("status", status=503), {}, 2, ["SlowDown", "tried 2 times", "download_retry"]),
    "reset": (Fault("reset", after=500), {}, 2, ["tried 2 times", "whether the store works"]),
    "truncated": (Fault("close", after=500), {}, 2, ["read", "tried 2 times"]),
    "flipped": (
        Fault("flip", after=600),
        {"validate_hash": "sha1"},
        2,
        ["its sha1 is not the one in the index", "restore it"],
    ),
    "stalled": (
        Fault("stall", after=500),
        {"download_timeout": 3.0, "download_retry": 0},
        1,
        ["within download_timeout = 3 s", "raise download_timeout"],
    ),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_one_line_and_the_position_stays(
    s3: Proxy, tmp_path: Path, name: str
) -> None:
    fault, options, tries, words = LASTING[name]
    fault.match, fault.struck = b"shard.00003", 0
    cache = tmp_path / "cache"
    stream = {"web": {"remote": REMOTE, "local": str(cache)}}
    options = {"download_retry": 1, **options}
    one = loader(stream, shuffle=False, infinite=False, predownload=0, **options)
    iterator = iter(one)
    seen = [n for batch in take(iterator, 3) for n in batch]
    s3.fault = fault
    with pytest.raises(MosaicDataError) as caught:
        for batch in iterator:
            seen += numbers(batch)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in ['stream "web"', "shard.00003.mds", REMOTE, *words])
    assert fault.struck == tries
    assert one.samples_seen == len(seen)
    assert leftovers(cache) == []
    assert not list(cache.glob("shard.00003*")), "what is bad is not kept"
    state = one.state_dict()
    if name == "missing":
        # The same loader goes on where it was.
        s3.fault = None
        seen += [n for batch in one for n in numbers(batch)]
    else:
        # So does a new one, which meets the fault again first.
        again = loader(stream, shuffle=False, infinite=False, **options)
        again.load_state_dict(state)
        with pytest.raises(MosaicDataError, match=r"shard\.00003"):
            list(again)
        s3.fault = None
        seen += [n for batch in again for n in numbers(batch)]
        again.close()
    one.close()
    assert seen == list(range(ROWS))


def test_a_store_that_trickles_or_answers_late_is_held_to_the_time(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that keep coming reset a socket's clock, not the download's."""
    s3.latency = 0.3
    stream = {"s": {"remote": REMOTE, "local": str(tmp_path / "cache"), "download_retry": 0}}
    one = loader(stream, shuffle=False, download_timeout=10, batch_size=20)
    assert [n for b in take(iter(one), 5) for n in b] == list(range(100))
    one.close()
    shutil.rmtree(tmp_path / "cache")
    slow = loader(stream, shuffle=False, download_timeout=1, predownload=0, batch_size=20)
    slow.load_state_dict(one.state_dict())
    s3.latency, s3.bandwidth = 0.0, 100.0
    with pytest.raises(MosaicDataError, match="download_timeout = 1 s"):
        next(iter(slow))
    slow.close()
    assert slow.samples_seen == 100

    def late(event: threading.Event, seconds: float) -> bool:
        time.sleep(0.5)  # as on a machine that is busy
        return threads.wait(event, seconds)

    # The client's own clock is not first then, either: its error would not name the option.
    monkeypatch.setattr(transfer, "threads", SimpleNamespace(**{**vars(threads), "wait": late}))
    s3.latency = 3.0
    with pytest.raises(MosaicDataError, match="within download_timeout = 1 s"):
        next(iter(slow))
    slow.close()


def test_one_client_serves_all_streams_and_threads(
    s3: Proxy, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making one takes a tenth of a second and more, of every start."""
    from mosaic_dataloader.storage import mosaicml as module

    made: list[str] = []
    plain = module.S3Objects._create_s3_client

    def counted(self: Any, *given: Any, **options: Any) -> None:
        made.append(os.environ["S3_ENDPOINT_URL"])
        plain(self, *given, **options)

    monkeypatch.setattr(module.S3Objects, "_create_s3_client", counted)
    module.forget_shared()
    streams = {
        name: {"remote": REMOTE, "local": str(tmp_path / name)} for name in ("one", "two", "three")
    }
    packed = {"cache_dir": str(tmp_path / "plain")}
    wanted = take(iter(loader({n: {"local": str(rows)} for n in streams}, **packed)), 20)
    one = loader(streams)
    assert take(iter(one), 20) == wanted
    one.close()
    assert len(made) == 1
    # Whoever changes the endpoint, or credentials, is not given the old client.
    other = Proxy(s3.upstream)
    monkeypatch.setenv("S3_ENDPOINT_URL", f"http://127.0.0.1:{other.port}")
    asked = len(s3.requests)
    moved = loader({n: {**o, "local": f"{o['local']}-2"} for n, o in streams.items()})
    assert take(iter(moved), 20) == wanted
    moved.close()
    assert len(made) == 2
    assert shard_requests(other)
    assert len(s3.requests) == asked
    other.close()
    # A forked process has connections that are not its own; it makes a client anew.
    reads, writes = os.pipe()
    if not os.fork():
        os.write(writes, str(len(module._shared)).encode())
        os._exit(0)
    assert os.read(reads, 9) == b"0"
    os.wait()
    os.close(reads)
    os.close(writes)
    assert len(module._shared) == 2


def test_pauses_grow_and_vary_and_are_bounded(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(transfer, "_FIRST_PAUSE", 1.0)
    monkeypatch.setattr(transfer.threads, "sleep", pauses.append)
    s3.fault = Fault("status", status=500)
    with pytest.raises(MosaicDataError, match=r"index\.json .*tried 9 times"):
        loader({"s": {"remote": REMOTE, "local": str(tmp_path / "c"), "download_retry": 8}})
    longest = [1, 2, 4, 8, 16, 30, 30, 30]
    assert all(top / 2 <= p <= top for p, top in zip(pauses, longest, strict=True)), pauses
    assert len({p / top for p, top in zip(pauses, longest, strict=True)}) == 8


def test_one_fetch_serves_all_who_wait_for_it_also_when_it_fails(s3: Proxy, tmp_path: Path) -> None:
    """The look-ahead's tries are the reader's: nobody waits for both."""
    fault = Fault("stall", b"shard.00000")
    stream = {"s": {"remote": REMOTE, "local": str(tmp_path / "c"), "download_retry": 1}}
    one = loader(stream, shuffle=False, download_timeout=3.0, predownload=64)
    s3.fault = fault
    with pytest.raises(MosaicDataError, match="download_timeout"):
        next(iter(one))
    one.close()
    assert fault.struck == 2


def test_what_mosaicml_streaming_left_bad_is_replaced(
    s3: Proxy, rows: Path, tmp_path: Path
) -> None:
    """It keeps a shard that failed its check, and takes it for good after a restart."""
    from streaming import Stream
    from streaming.base.world import World

    cache = tmp_path / "cache"
    damaged = tmp_path / "damaged"
    plain = tmp_path / "plain"
    write_rows(plain, range(96), size_limit=1200, hashes=["sha1"])
    shutil.copytree(plain, damaged)
    path = damaged / "shard.00002.mds"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    stream = Stream(remote=str(damaged), local=str(cache), validate_hash="sha1", download_retry=1)
    stream.apply_default({"split": "", "download_timeout": 10, "keep_zip": False})
    reader = stream.get_shards(World(1, 1, 1, 0), False)[2]
    with pytest.raises(ValueError, match="Checksum"):
        stream.prepare_shard(reader)
    assert (cache / "shard.00002.mds").exists()
    options = {"shuffle": False, "infinite": False}
    good = {"s": {"remote": str(plain), "local": str(cache), "validate_hash": "sha1"}}
    # While the store's is bad, too, it is refused, and gone from the cache.
    bad = {"s": {**good["s"], "remote": str(damaged), "download_retry": 0}}
    for _ in range(2):
        with pytest.raises(MosaicDataError, match="sha1 is not the one"):
            list(loader(bad, **options))
        assert not (cache / "shard.00002.mds").exists()
    found = [n for b in loader(good, **options) for n in numbers(b)]
    assert found == list(range(96))


def test_shards_deleted_under_the_reader_come_back(s3: Proxy, rows: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    stream = {"s": {"remote": REMOTE, "local": str(cache)}}
    wanted = take(iter(loader(str(rows), cache_dir=str(tmp_path / "plain"))), 40)
    # With a limit, shards are let go of between batches, and opened again.
    one = loader(stream, cache_limit="10mb")
    iterator, found = iter(one), []
    for number in range(40):
        found += take(iterator, 1)
        if number % 10 == 0:
            for path in cache.glob("*.mds"):
                path.unlink(missing_ok=True)
    one.close()
    one.dataset.close()
    assert found == wanted
    assert max(shard_requests(s3).values()) > 1


@pytest.fixture(scope="module")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SftpServer, Proxy]]:
    """An OpenSSH server, and a proxy before it."""
    if server_program() is None:
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with sftp_server(tmp_path_factory.mktemp("keys")) as running:
        proxy = Proxy(running.port)
        running.know(proxy.port)
        yield running, proxy
        proxy.close()


def test_sftp_reads_as_from_a_directory(
    sftp: tuple[SftpServer, Proxy], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, proxy = sftp
    monkeypatch.setattr(transfer, "_FIRST_PAUSE", 0.02)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    through = running.address(rows, port=proxy.port)
    stream = {"s": {"remote": through, "local": str(tmp_path / "cache")}}
    one = loader(stream, validate_hash="sha1")
    wanted = take(iter(loader(str(rows), cache_dir=str(tmp_path / "plain"))), 60)
    assert take(iter(one), 60) == wanted
    one.close()
    # A connection that breaks or says nothing more is made anew.
    for number, fault in enumerate((Fault("reset", after=3000), Fault("stall", after=3000))):
        fault.times, proxy.fault = 1, fault
        fresh = {"s": {"remote": through, "local": str(tmp_path / f"fresh-{number}")}}
        again = loader(fresh, download_timeout=2.0, predownload=0)
        assert take(iter(again), 30) == wanted[:30]
        again.close()
        assert fault.struck == 1
    # Nobody who may not is let in, and no password is told.
    (tmp_path / "nobody").touch()
    secret = through.replace("@", ":hunter2@")
    for variable, value, word in [
        ("COMPOSER_SFTP_KEY_FILE", running.keys / "stranger", "Authentication"),
        ("COMPOSER_SFTP_KNOWN_HOSTS_FILE", tmp_path / "nobody", "known_hosts"),
    ]:
        with monkeypatch.context() as other:
            other.setenv(variable, str(value))
            with pytest.raises(MosaicDataError) as caught:
                loader({"s": {"remote": secret, "local": str(tmp_path / "never")}})
        message = str(caught.value)
        assert all(part in message for part in (word, "credentials", ":***@127.0.0.1"))
        assert "tried" not in message
        assert "hunter2" not in message
