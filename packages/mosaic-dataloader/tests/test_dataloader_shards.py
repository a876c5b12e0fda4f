"""Shards from elsewhere: whole or not at all, once per machine, within limits, after any kill."""

import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import pytest
from dataloader_helpers import loader, numbers, take, write_rows
from disk_watch import DiskWatch
from reader_processes import Job
from shared_memory import orphans, segments

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.storage.cache import _evict

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


def leftovers(cache: Path) -> list[str]:
    """Files that are neither shards, their versions, the index, the lock nor its last check."""
    found = [p for p in cache.rglob("*") if p.is_file()]
    return sorted(
        str(p.relative_to(cache))
        for p in found
        if not p.name.endswith(".mds")
        and p.name not in ("index.json", "lock", "checked", "versions")
    )


def test_processes_share_a_cache_and_fetch_each_shard_once(
    store: Path, tmp_path: Path, start: Callable[..., Job]
) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    jobs = [
        start(remote=store, local=cache, seconds=0.02, batches=ROWS // 8, log=log, workers=w)
        for w in (0, 2)
    ]
    rows = [job.finish() for job in jobs]
    assert rows[0] == rows[1]
    assert Counter(rows[0]) == Counter(range(ROWS))
    fetched = Counter(log.read_text().split())
    assert len(fetched) > 30, "the index and all shards"
    assert set(fetched.values()) == {1}
    assert leftovers(cache) == []


def test_kills_leave_nothing_and_lose_nothing(
    store: Path, tmp_path: Path, start: Callable[..., Job]
) -> None:
    """Kill readers at random moments; the ledger of all lives together is the order itself."""
    cache, state = tmp_path / "cache", tmp_path / "state"
    chance = random.Random(3)
    before = segments()
    total = 2 * ROWS // 8
    plain = loader(str(store), cache_dir=str(tmp_path / "plain"), shuffle_block_size=100)
    expected = [row for rows in take(iter(plain), total) for row in rows]
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
            seconds=0.2,
            batches=total - saved // 8,
            state=state,
            workers=kills % 2,
        )
        job.wait_for("ready")
        if kills < 8:
            time.sleep(chance.uniform(0.02, 0.5))
            job.kill()
            kills += 1
        ledger += job.join()
    assert ledger == expected
    assert kills >= 4
    assert leftovers(cache) == []
    assert not any((cache / ".mosaic" / "staging").iterdir())
    assert orphans(before) == set()


def test_what_is_left_in_shared_memory_would_be_seen() -> None:
    before = segments()
    held = SharedMemory(create=True, size=4096)
    name = held.name.lstrip("/")
    try:
        assert name not in orphans(before), "somebody's own, still in use"
        held.close()
        assert name in orphans(before)
    finally:
        held.unlink()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """160 rows in shards of about 128 KB: the store, its index's size, and a shard's size."""
    out = Path(
        write_rows(
            tmp_path_factory.mktemp("wide") / "data", range(160), length=4000, size_limit=130_000
        )
    )
    shards = json.loads((out / "index.json").read_text())["shards"]
    assert len(shards) >= 20
    index = (out / "index.json").stat().st_size
    return out, index, max(s["raw_data"]["bytes"] for s in shards)


def test_a_shard_in_use_is_not_evicted(store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    one = loader({"web": {"remote": str(store), "local": str(cache)}})
    shard = cache / "shard.00000.mds"
    with one.dataset.store.reading(0):
        assert _evict(str(cache), 0) == 0 and shard.exists()
    one.dataset.close()
    assert _evict(str(cache), 0) > 0 and not shard.exists()


def test_a_shared_cache_stays_within_the_smallest_limit(
    wide: tuple[Path, int, int], small_disk: Path, start: Callable[..., Job]
) -> None:
    store, index, shard = wide
    cache = small_disk / "cache"
    small, large = index + 6 * shard, index + 12 * shard
    job = {"remote": store, "local": cache, "seconds": 0.0, "batches": 60}
    with DiskWatch(small_disk) as watch:
        jobs = [start(**job, cache_limit=limit, workers=w) for limit, w in ((small, 0), (large, 1))]
        rows = [one.finish() for one in jobs]
    assert rows[0] == rows[1]
    assert set(Counter(rows[0]).values()) == {3}
    # One alone may use its own limit; while both run, the smaller one holds (see below).
    assert large // 4 < max(watch.seen) <= large + DiskWatch.SLACK
    assert leftovers(cache) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_limit_far_below_the_data_changes_no_row(
    wide: tuple[Path, int, int], small_disk: Path, tmp_path: Path, workers: int
) -> None:
    store, index, shard = wide
    cache = small_disk / "cache"
    limit = index + 5 * shard
    stream = {"s": {"remote": str(store), "local": str(cache)}}
    # A neighbour without a limit, and one with a larger limit, obey the smallest.
    neighbours = [loader(stream), loader(stream, cache_limit=index + 9 * shard)]
    one = loader(stream, cache_limit=limit, num_workers=workers)
    expected = take(iter(loader(str(store))), 50)
    with DiskWatch(small_disk) as watch:
        mine, others = iter(one), [iter(n) for n in neighbours]
        for wanted in expected:
            assert numbers(next(mine)) == wanted
            assert [numbers(next(other)) for other in others] == [wanted, wanted]
    assert limit // 2 < max(watch.seen) <= limit + DiskWatch.SLACK
    for each in (one, *neighbours):
        each.close()
        each.dataset.close()
    assert leftovers(cache) == []
    too_little = index + 3 * shard
    with pytest.raises(MosaicDataError, match=r"cache_limit .* at least [\d,]+"):
        loader(stream, cache_limit=too_little)


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


def test_kept_compressed_shards_are_unpacked_again(store: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    stream = {"s": {"remote": str(store), "local": str(cache), "keep_zip": True}}
    whole = list(range(ROWS))
    assert [n for b in loader(stream, shuffle=False, infinite=False) for n in numbers(b)] == whole
    for path in cache.glob("*.mds"):
        path.unlink()
    (cache / "shard.00003.mds.zstd").write_bytes(b"damaged")
    again = loader(stream, shuffle=False, infinite=False)
    assert [n for b in again for n in numbers(b)] == whole
    assert again.loading_counters()["s/shards_fetched"] == 1
    names = {path.name for path in store.glob("*.zstd")}
    assert {path.name for path in cache.glob("*.zstd")} == names


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
        ({"remote": "/x", "proportion": 0.5, "repeat": 2.0}, ["proportion"]),
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
    # Files of threads that other tests left behind come and go; a leak grows with every round.
    assert opened[-1] <= opened[1] + 2
    assert threading.active_count() < 20
