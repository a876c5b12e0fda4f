"""Shards from elsewhere: whole or not at all, once per machine, within limits, after any kill."""

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dataloader_helpers import loader, numbers, take, write_rows

from mosaic_dataloader import MosaicDataError

ROWS = 400


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 34 shards of 12 rows, packed, with hashes."""
    return Path(
        write_rows(
            tmp_path_factory.mktemp("store") / "data",
            range(ROWS),
            size_limit=1200,
            compression="zstd",
            hashes=["sha1"],
        )
    )


def start(**job: Any) -> "subprocess.Popen[str]":
    script = Path(__file__).parent / "slow_reader.py"
    job = {key: str(v) if isinstance(v, Path) else v for key, v in job.items()}
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(job)], stdout=subprocess.PIPE, text=True
    )


def leftovers(cache: Path) -> list[str]:
    """Files that are neither shards, the index nor the lock."""
    found = [p for p in cache.rglob("*") if p.is_file()]
    return sorted(
        str(p.relative_to(cache))
        for p in found
        if not p.name.endswith(".mds") and p.name not in ("index.json", "lock")
    )


def read_numbers(lines: str) -> list[int]:
    return [int(n) for line in lines.splitlines() if line[:1].isdigit() for n in line.split()]


def test_processes_share_a_cache_and_fetch_each_shard_once(store: Path, tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    jobs = [
        start(remote=store, local=cache, seconds=0.02, batches=ROWS // 8, log=log, workers=w)
        for w in (0, 2)
    ]
    outputs = [job.communicate(timeout=120)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    for output in outputs:
        assert Counter(read_numbers(output)) == Counter(range(ROWS))
    assert outputs[0] == outputs[1]
    fetched = Counter(log.read_text().split())
    assert len(fetched) > 30, "the index and all shards"
    assert set(fetched.values()) == {1}
    assert leftovers(cache) == []


def test_kills_leave_nothing_and_lose_nothing(store: Path, tmp_path: Path) -> None:
    """Kill readers at random moments; the ledger of all lives together is the order itself."""
    cache, state = tmp_path / "cache", tmp_path / "state"
    chance = random.Random(3)
    before = sorted(os.listdir("/dev/shm"))
    total = 2 * ROWS // 8
    expected = [
        r
        for b in take(
            iter(loader(str(store), cache_dir=str(tmp_path / "c"), shuffle_block_size=100)), total
        )
        for r in b
    ]
    ledger: list[int] = []
    kills = 0
    while len(ledger) < len(expected):
        saved = json.loads(state.read_text())["samples_seen"] if state.exists() else 0
        # Rows after the last saved position are read again, and only these.
        assert saved in (len(ledger), len(ledger) - 8)
        del ledger[saved:]
        job = start(
            remote=store,
            local=cache,
            seconds=0.1,
            batches=total - saved // 8,
            state=state,
            workers=kills % 2,
        )
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        if kills < 6:
            time.sleep(chance.uniform(0.05, 1.2))
            job.kill()
            kills += 1
        output, _ = job.communicate(timeout=120)
        whole = output[: output.rfind("\n") + 1]
        ledger += read_numbers(whole)
        ledger = ledger[: len(ledger) // 8 * 8]
    assert ledger == expected
    assert kills == 6
    assert leftovers(cache) == []
    assert not any((cache / ".mosaic" / "incoming").iterdir())
    assert sorted(os.listdir("/dev/shm")) == before


def watch(cache: Path, stop: threading.Event, seen: list[int]) -> None:
    """Note what a cache takes, as an outsider sees it, open but unlinked files included."""
    while not stop.is_set():
        total = 0
        for path in list(cache.rglob("*")):
            try:
                if path.is_file() and path.name not in ("lock", "reserved"):
                    total += path.stat().st_size
            except FileNotFoundError:
                continue
        seen.append(total)
        time.sleep(0.002)


def test_a_shared_cache_stays_within_the_smallest_limit(store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    index = (store / "index.json").stat().st_size
    shard = max(
        s["raw_data"]["bytes"] + s["zip_data"]["bytes"]
        for s in json.loads((store / "index.json").read_text())["shards"]
    )
    small, large = index + 6 * shard, index + 20 * shard
    stop, seen = threading.Event(), [0]
    watcher = threading.Thread(target=watch, args=(cache, stop, seen))
    watcher.start()
    jobs = [
        start(remote=store, local=cache, seconds=0.0, batches=ROWS // 8, cache_limit=limit)
        for limit in (small, large)
    ]
    outputs = [job.communicate(timeout=240)[0] for job in jobs]
    stop.set()
    watcher.join()
    assert [job.returncode for job in jobs] == [0, 0]
    for output in outputs:
        assert Counter(read_numbers(output)) == Counter(range(ROWS))
    both = [s for s in seen if s]
    # Most of the time both run, and the smaller limit holds for them; one alone may use its own.
    assert max(seen) <= large
    assert len(both) > 100
    assert leftovers(cache) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_limit_far_below_the_data_changes_no_row(
    store: Path, tmp_path: Path, workers: int
) -> None:
    cache = tmp_path / "cache"
    index = (store / "index.json").stat().st_size
    shard = max(
        s["raw_data"]["bytes"] + s["zip_data"]["bytes"]
        for s in json.loads((store / "index.json").read_text())["shards"]
    )
    limit = index + 5 * shard
    one = loader(
        {"s": {"remote": str(store), "local": str(cache)}}, cache_limit=limit, num_workers=workers
    )
    plain = loader(str(store), cache_dir=str(tmp_path / "plain"))
    stop, seen = threading.Event(), [0]
    watcher = threading.Thread(target=watch, args=(cache, stop, seen))
    watcher.start()
    try:
        assert take(iter(one), 100) == take(iter(plain), 100)
    finally:
        stop.set()
        watcher.join()
        one.close()
    assert max(seen) <= limit
    assert max(seen) > limit // 2
    too_little = index + 3 * shard
    with pytest.raises(MosaicDataError, match=r"cache_limit .* at least [\d,]+"):
        loader({"s": {"remote": str(store), "local": str(cache)}}, cache_limit=too_little)


def test_damage_is_refused_and_not_kept(store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    packed = sorted(broken.glob("*.mds*"))
    whole = packed[0].read_bytes()
    cache = tmp_path / "cache"
    stream = {"web": {"remote": str(broken), "local": str(cache), "download_retry": 0}}
    flipped = bytes([whole[0], *whole[1:-1], whole[-1] ^ 1])
    for damage, options, word in [
        (whole[:-5], {}, "bytes arrived"),
        (flipped, {"validate_hash": "sha1"}, "sha1"),
        (None, {}, "No such file"),
    ]:
        if damage is None:
            packed[0].unlink()
        else:
            packed[0].write_bytes(damage)
        with pytest.raises(MosaicDataError) as caught:
            list(loader(stream, shuffle=False, infinite=False, **options))
        message = str(caught.value)
        assert "\n" not in message
        assert all(w in message for w in ('stream "web"', "shard.00000.mds", word)), message
        assert not (cache / "shard.00000.mds").exists()
        assert leftovers(cache) == []
    packed[0].write_bytes(whole)
    rows = [n for b in loader(stream, shuffle=False, infinite=False) for n in numbers(b)]
    assert rows == list(range(ROWS))
    with pytest.raises(MosaicDataError, match="validate_hash = 'md5'"):
        loader(stream, validate_hash="md5")


def test_shards_deleted_or_cut_under_the_reader_come_back(store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    stream = {"s": {"remote": str(store), "local": str(cache)}}
    one = loader(stream, shuffle=False, predownload=0)
    first = take(iter(one), 10)
    one.close()
    for path in cache.glob("*.mds"):
        path.unlink()
    (cache / "shard.00001.mds").write_bytes(b"cut")
    again = loader(stream, shuffle=False, predownload=0)
    assert take(iter(again), 10) == first
    again.close()


def test_data_in_place_are_never_written_to(numbered: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(numbered, place)
    before = {p.name: p.stat().st_mtime_ns for p in place.iterdir()}
    take(iter(loader(str(place), num_workers=1)), 30)
    assert {p.name: p.stat().st_mtime_ns for p in place.iterdir()} == before
    (place / "shard.00002.mds").unlink()
    with pytest.raises(MosaicDataError, match=r"shard.00002.mds is missing"):
        loader(str(place))


@pytest.mark.parametrize(
    ("stream", "parts"),
    [
        ({}, ["neither remote nor local"]),
        ({"local": "/nowhere/at/all"}, ["/nowhere/at/all", "does not exist"]),
        ({"remote": "gopher://a/b"}, ["gopher"]),
        ({"remote": "/nowhere/remote", "download_retry": 0}, ["index.json", "/nowhere/remote"]),
        ({"local": "x", "proportion": 0.5, "repeat": 2.0}, ["proportion"]),
        ({"lcoal": "x"}, ["lcoal", "local"]),
    ],
)
def test_streams_that_cannot_be_opened(
    stream: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(MosaicDataError) as caught:
        loader({"mine": stream}, cache_dir=str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ["mine", *parts]), message


def test_loaders_come_and_go_in_one_process(store: Path, numbered: str, tmp_path: Path) -> None:
    """Rebuilt loaders, and two over the same streams, leave no file open and agree."""
    from streaming import Stream

    shared = [
        Stream(remote=str(store), local=str(tmp_path / "a"), repeat=1.5),
        Stream(local=numbered),
    ]
    rows = []
    opened = []
    for _ in range(4):
        one, two = (loader(str(store), cache_dir=str(tmp_path / "b")) for _ in range(2))
        first, other = iter(one), iter(two)
        assert take(first, 20) == take(other, 20)
        listed = [take(iter(loader(None, streams=shared)), 5)]
        rows.append(listed)
        one.close()
        two.close()
        one.dataset.close()
        two.dataset.close()
        del one, two, first, other
        opened.append(len(os.listdir("/proc/self/fd")))
    assert all(r == rows[0] for r in rows)
    assert opened[-1] <= opened[1]
    assert threading.active_count() < 20
