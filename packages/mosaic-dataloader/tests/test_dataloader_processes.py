"""Processes, threads and locks end with their use: killed, stopped, forked, stuck, or just done."""

import atexit
import fcntl
import gc
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from dataloader_helpers import loader, take, write_rows
from reader_processes import Job
from streaming import MDSWriter
from streaming.base.storage.download import LocalDownloader

from mosaic_dataloader import MosaicDataError, MosaicParallelAwareDataloader
from mosaic_dataloader.order import sequence as sequence_module
from mosaic_dataloader.storage import download as fetch_module
from mosaic_dataloader.storage import index as index_module
from mosaic_dataloader.storage import transfer as transfer_module
from mosaic_dataloader.storage.cache import live_leases
from mosaic_dataloader.storage.layout import (
    BUDGET_BYTE,
    INDEX_BYTE,
    leases_root,
    lock_path,
    use_byte,
)
from mosaic_dataloader.util import locks
from mosaic_dataloader.util.locks import RangeLock

TESTS = Path(__file__).parent
ROWS = 160


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 rows in shards of about a dozen."""
    return Path(write_rows(tmp_path_factory.mktemp("store") / "data", range(ROWS), size_limit=1200))


def shards(store: Path) -> int:
    return len(json.loads((store / "index.json").read_text())["shards"])


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and parent(entry) == pid:
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def parent(entry: Path) -> int:
    return int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def runs(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pinned(cache: Path, count: int) -> list[int]:
    """Shards that somebody holds open."""
    lock = RangeLock(lock_path(str(cache)))
    try:
        return [shard for shard in range(count) if not lock.try_exclusive(use_byte(shard))]
    finally:
        lock.close()


def in_child(job: Callable[[], str]) -> str:
    """What a job returns in a process forked from this one; the error's text if it raises."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            text = job()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    assert not status, f"it ended with status {status}, {text!r}"
    return text


# Processes that are killed.


def test_workers_end_with_a_parent_that_is_killed_while_they_start(
    store: Path, tmp_path: Path, start: Callable[..., Job]
) -> None:
    cache = tmp_path / "cache"
    job = start(
        remote=store, local=cache, workers=2, batches=400, cache_limit=10**6, worker_start_seconds=1
    )
    wait_until(lambda: len(children(job.pid)) >= 2, "no workers")
    workers = children(job.pid)
    assert len(live_leases(str(cache))) == 1
    job.kill()
    wait_until(lambda: not job.alive(), "it lives")
    # Before they get to know of it, too.
    assert live_leases(str(cache)) == [], "a worker holds the lease of its dead parent"
    wait_until(lambda: not any(map(runs, workers)), "a worker lives forever", 30)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_so_do_workers_that_are_started_otherwise(
    store: Path, tmp_path: Path, method: str, start: Callable[..., Job]
) -> None:
    cache = tmp_path / "cache"
    reader = start(remote=store, local=cache, workers=1, batches=400, start_method=method)
    wait_until(lambda: len(reader.out.read_text().splitlines()) == 2, "no worker")
    workers = [int(pid) for pid in reader.out.read_text().splitlines()[1].split()]
    assert len(workers) == 1
    assert runs(workers[0])
    reader.kill()
    # They end once they have imported what they need to read.
    wait_until(lambda: not any(map(runs, workers)), "a worker lives forever", 120)


@pytest.mark.parametrize("packing", [False, True])
def test_workers_have_ended_when_an_iteration_that_failed_is_closed(
    store: Path, monkeypatch: pytest.MonkeyPatch, packing: bool
) -> None:
    """Although the error, which is kept, holds the frames that used them."""
    # So long torch waits for a worker that does not end, before it terminates it.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 30.0)
    one = loader(store, packing=packing, vocab_size=1, num_workers=2)
    iterator = iter(one)
    workers = multiprocessing.active_children()
    with pytest.raises(MosaicDataError, match="outside the model's vocabulary") as caught:
        next(iterator)
    one.close()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert caught.tb is not None


def test_workers_end_with_a_loader_that_is_collected_as_garbage(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch tells them comes after their queues were closed."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 30.0)
    one: Any = loader(store, num_workers=2, persistent_workers=True)
    one.itself = one
    iterator = iter(one)
    next(iterator)
    workers = multiprocessing.active_children()
    del one, iterator
    begun = time.monotonic()
    gc.collect()
    # Those that torch terminates end with 0 as well.
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert time.monotonic() - begun < 30


# Processes that are forked.


def test_a_forked_process_keeps_no_lock_and_reads_for_itself(store: Path, tmp_path: Path) -> None:
    """Whatever the parent's threads hold at that moment, and to whoever the process belongs."""
    cache = tmp_path / "cache"
    one = loader({"s": {"remote": str(store), "local": str(cache)}}, cache_limit=10**6)
    expected = take(iter(one), 6)
    one.close()
    one.load_state_dict(loader(str(store)).state_dict())
    batches = iter(one)
    assert take(batches, 2) == expected[:2]
    inside, leave = threading.Event(), threading.Event()

    def holds_everything() -> None:
        with one.dataset.store._guard, one.run.source.sequence._guard, one.dataset.store.reading(3):
            inside.set()
            leave.wait(120)

    holder = threading.Thread(target=holds_everything, daemon=True)
    holder.start()
    assert inside.wait(30)
    assert pinned(cache, shards(store))
    leases = os.listdir(leases_root(str(cache)))
    assert len(leases) == 1

    def look() -> str:
        links = []
        for fd in os.listdir("/proc/self/fd"):
            # One of them was that of this listing.
            with suppress(FileNotFoundError):
                links.append(os.readlink(f"/proc/self/fd/{fd}"))
        return " ".join(link for link in links if ".mosaic" in link)

    def read() -> str:
        with pytest.raises(MosaicDataError, match="forked from"):
            next(batches)
        rows = [one.dataset[number][0].item() for number in (0, 3, ROWS - 1)]
        mine = take(iter(one), 4)
        one.close()
        # As at the end of a program.
        atexit._run_exitfuncs()
        return json.dumps([rows, mine])

    assert in_child(look) == ""
    assert json.loads(in_child(read)) == [[0, 3, ROWS - 1], expected[2:6]]
    # The child has taken nothing from its parent.
    assert os.listdir(leases_root(str(cache))) == leases
    assert len(live_leases(str(cache))) == 1
    leave.set()
    holder.join(30)
    assert take(batches, 4) == expected[2:6]
    one.close()
    one.dataset.close()


def test_workers_of_a_parent_are_not_those_of_its_child(store: Path, tmp_path: Path) -> None:
    one = loader(str(store), num_workers=1, persistent_workers=True)
    batches = iter(one)
    first = take(batches, 2)

    def read() -> str:
        return json.dumps(take(iter(one), 2))

    mine = json.loads(in_child(read))
    assert take(batches, 2) == mine
    assert mine != first
    one.close()


# Shards that nobody reads any longer.


def finite_pass(one: MosaicParallelAwareDataloader) -> object:
    return list(one)


def broken_loop(one: MosaicParallelAwareDataloader) -> object:
    for _ in one:
        break
    return None


def closed_iterator(one: MosaicParallelAwareDataloader) -> object:
    batches = iter(one)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    return batches


def single_rows(one: MosaicParallelAwareDataloader) -> object:
    return [one.dataset[number] for number in range(0, ROWS, 10)]


@pytest.mark.parametrize("use", [finite_pass, broken_loop, closed_iterator, single_rows])
def test_what_is_not_read_is_not_kept_from_others(
    store: Path, tmp_path: Path, use: Callable[[MosaicParallelAwareDataloader], object]
) -> None:
    cache = tmp_path / "cache"
    stream = {"s": {"remote": str(store), "local": str(cache)}}
    one = loader(stream, infinite=False)
    held = use(one)
    wait_until(lambda: not pinned(cache, shards(store)), "shards stay pinned")
    # What is open is not opened again for each row.
    _ = one.dataset[0], one.dataset[1]
    assert len(pinned(cache, shards(store))) == 1
    wait_until(lambda: not pinned(cache, shards(store)), "shards stay pinned")
    # Another one makes room for itself, at the latest for the one that is missing now.
    next(cache.glob("*.mds")).unlink()
    size = max(
        s["raw_data"]["bytes"] for s in json.loads((store / "index.json").read_text())["shards"]
    )
    limit = 5 * size + (store / "index.json").stat().st_size
    other = loader(stream, cache_limit=limit, infinite=False)
    assert len(list(other)) == ROWS // 8
    assert len(list(cache.glob("*.mds"))) <= 5
    other.dataset.close()
    # And whoever was idle reads on.
    assert one.dataset[ROWS - 1][0].item() == ROWS - 1
    del held


def test_shards_stay_open_while_an_iteration_runs(store: Path, tmp_path: Path) -> None:
    """Also longer than an idle one would keep them, and beside rows that are looked at."""
    cache = tmp_path / "cache"
    one = loader({"s": {"remote": str(store), "local": str(cache)}}, prefetch_factor=2)
    # From here on, somebody looks whether it is idle.
    _ = one.dataset[0]
    batches = iter(one)
    take(batches, 3)
    before = pinned(cache, shards(store))
    time.sleep(1.5)
    assert before
    assert set(before) <= set(pinned(cache, shards(store)))
    one.close()


# Orders that cannot be kept.


@pytest.fixture
def long_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_module, "_SHORT", 100)


@pytest.mark.parametrize("trouble", ["removed", "cleaned", "file", "full", "readonly"])
def test_a_run_outlives_the_folder_of_its_orders(
    store: Path,
    small_disk: Path,
    long_epochs: None,
    trouble: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    orders = small_disk / "orders"
    expected = take(iter(loader(str(store), shuffle_algo="naive", cache_dir="/dev/null")), 50)
    caplog.clear()
    if trouble == "readonly":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    one = loader(str(store), shuffle_algo="naive", cache_dir=str(small_disk), prefetch_factor=1)
    batches = iter(one)
    rows = take(batches, 2)
    key_folders = list(orders.iterdir()) if orders.exists() else []
    assert len(key_folders) == (trouble != "readonly")
    if trouble == "removed":
        subprocess.run(["rm", "-r", str(orders)], check=True)
    elif trouble == "cleaned":
        for path in key_folders[0].rglob("*"):
            if path.is_file():
                path.unlink()
    elif trouble == "file":
        orders.rename(small_disk / "elsewhere")
        orders.write_text("not a folder")
    elif trouble == "full":
        filler = small_disk / "filler"
        with filler.open("wb", 0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
    rows += take(batches, 48)
    one.close()
    assert rows == expected
    told = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "cannot keep epoch orders in" in told[0].message
    assert "\n" not in told[0].message


# Locks whose holders do not run.


@contextmanager
def stopped_holder(cache: Path, byte: int) -> Iterator[int]:
    """A process that was stopped while it held a byte of the cache's lock; its number."""
    script = f"""
import sys
from mosaic_dataloader.util.locks import RangeLock
lock = RangeLock({lock_path(str(cache))!r})
lock.exclusive({byte})
print("held", flush=True)
sys.stdin.read()
"""
    (cache / ".mosaic").mkdir(parents=True, exist_ok=True)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: "stopped" in locks.holder_of(lock_path(str(cache)), byte), "it runs")
            yield process.pid
        finally:
            process.kill()


def test_a_stopped_process_is_not_waited_for_without_end(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (locks, index_module, fetch_module):
        monkeypatch.setattr(module, "LOCK_TIMEOUT", 0.5)
    monkeypatch.setattr(locks, "_REPORT_SECONDS", 0.1)
    cache = tmp_path / "cache"
    stream = {"remote": str(store), "local": str(cache), "download_timeout": 0.5}
    stream["download_retry"] = 0
    with stopped_holder(cache, INDEX_BYTE) as pid, pytest.raises(MosaicDataError) as caught:
        loader({"s": stream})
    assert f"process {pid} (stopped) has held the lock {cache}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert f"waiting for process {pid} (stopped), which holds the lock" in caplog.text
    one = loader({"s": stream}, cache_limit=10**6)
    with stopped_holder(cache, BUDGET_BYTE) as pid, pytest.raises(MosaicDataError) as caught:
        next(iter(one))
    assert f"process {pid} (stopped)" in str(caught.value)
    one.close()
    # Shards are let go, and read on, all the same.
    assert len(list(loader({"s": stream}, infinite=False))) == ROWS // 8
    with stopped_holder(cache, BUDGET_BYTE):
        assert len(list(loader({"s": stream}, infinite=False))) == ROWS // 8


def test_where_no_locks_are_supported_nothing_is_raised_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*given: object) -> None:
        raise OSError(fcntl.F_OFD_SETLK, "Operation not supported")

    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    lock = RangeLock(str(tmp_path / "lock"))
    monkeypatch.setattr(fcntl, "fcntl", unsupported)
    with pytest.raises(OSError, match="not supported"):
        lock.exclusive(3)
    del lock
    assert ignored == []


# Stores that hang.


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Set once a shard is being downloaded, which takes until the test ends."""
    begun, end = threading.Event(), threading.Event()
    whole = LocalDownloader._download_file_impl

    def hangs(self: LocalDownloader, remote: str, local: str, timeout: float) -> None:
        if remote.endswith(".mds"):
            begun.set()
            end.wait(600)
        whole(self, remote, local, timeout)

    monkeypatch.setattr(LocalDownloader, "_download_file_impl", hangs)
    yield begun
    end.set()


def own_threads(before: set[threading.Thread]) -> set[str]:
    return {t.name for t in set(threading.enumerate()) - before if t.name.startswith("mosaic")}


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_does_not_wait_for_a_store_that_hangs(
    store: Path, tmp_path: Path, stuck: threading.Event, workers: int
) -> None:
    before = set(threading.enumerate())
    stream = {"s": {"remote": str(store), "local": str(tmp_path / "cache")}}
    one = loader(stream, num_workers=workers, download_timeout=500)
    batches = iter(one)
    time.sleep(0.5)
    assert workers or stuck.wait(30)
    assert {"mosaic-batches", "mosaic-fetch"} <= own_threads(before)
    begun = time.monotonic()
    one.close()
    del batches
    # It promises not to wait; torch alone would give each worker five seconds.
    assert time.monotonic() - begun < 4
    assert own_threads(before) <= {"mosaic-download"}


def test_a_pause_between_two_tries_ends_with_the_loader(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_module, "_FIRST_PAUSE", 300.0)
    monkeypatch.setattr(transfer_module, "_LONGEST_PAUSE", 300.0)
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(store), str(broken)], check=True)
    for path in broken.glob("*.mds"):
        path.write_bytes(b"cut")
    one = loader({"s": {"remote": str(broken), "local": str(tmp_path / "cache")}})
    batches = iter(one)
    time.sleep(0.5)
    begun = time.monotonic()
    one.close()
    del batches
    assert time.monotonic() - begun < 4


def test_a_program_ends_at_once_though_its_stores_hang(store: Path, tmp_path: Path) -> None:
    script = str(TESTS / "exits_while_stuck.py")
    with subprocess.Popen(
        [sys.executable, script, str(store), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "ends\n"
        begun = time.monotonic()
        errors = program.stderr.read()
        assert program.wait(120) == 0
        # Fifteen seconds a loader, before.
        assert time.monotonic() - begun < 10
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


# Threads beside the one that trains.


@pytest.fixture
def documents(tmp_path: Path) -> str:
    """Documents of 1 to 40 tokens, each telling its number and its place in it."""
    import numpy as np

    columns = {"tokens": "ndarray:int32"}
    with MDSWriter(out=str(tmp_path / "documents"), columns=columns, size_limit=4000) as writer:
        for number in range(300):
            tokens = 1000 * number + np.arange(1 + number * 7 % 40)
            writer.write({"tokens": tokens.astype(np.int32)})
    return str(tmp_path / "documents")


@pytest.mark.parametrize("packing", [False, True])
def test_a_state_taken_in_another_thread_is_that_of_one_batch(
    documents: str, packing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"packing": packing, "packing_lanes": 12} if packing else {}
    one = loader(documents, **options)
    states = [one.state_dict()]
    for _ in islice(one, 60):
        states.append(one.state_dict())
    one.close()
    known = {json.dumps(state, sort_keys=True) for state in states}
    again = loader(documents, **options)
    taken: list[dict[str, str]] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            taken.append(again.state_dict())
            _ = again.epoch, again.epochs_seen, again.tokens_per_stream

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        deadline = time.monotonic() + 60
        for count, _ in enumerate(islice(again, 60)):
            _ = again.tokens_per_stream
            # On a busy machine the other thread may have little of the processor.
            while len(taken) < count // 2 and time.monotonic() < deadline:
                time.sleep(0.001)
    finally:
        over.set()
        watcher.join(60)
        sys.setswitchinterval(interval)
    again.close()
    assert len(taken) > 20
    wrong = [state for state in taken if json.dumps(state, sort_keys=True) not in known]
    assert wrong == []
    assert again.tokens_per_stream == one.tokens_per_stream


# Numbers that no clock takes, and just over a week.
@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), -1.0, 0.0, 1e300, 604_801.0])
def test_a_timeout_without_end_is_refused(store: Path, tmp_path: Path, seconds: float) -> None:
    stream = {"remote": str(store), "local": str(tmp_path / "cache")}
    for options, defaults in (
        ({"download_timeout": seconds}, {}),
        ({}, {"download_timeout": seconds}),
    ):
        with pytest.raises(MosaicDataError) as caught:
            loader({"s": {**stream, **options}}, **defaults)
        assert ('stream "s": ' in str(caught.value)) >= bool(options)
        assert "download_timeout" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_longest_timeout_and_many_tries_work(store: Path, tmp_path: Path) -> None:
    stream = {"remote": str(store), "local": str(tmp_path / "cache")}
    one = loader({"s": {**stream, "download_timeout": 604_800, "download_retry": 10**9}})
    assert len(take(iter(one), 3)) == 3
    one.close()
    assert transfer_module._longest_pause(5000) == 30.0
