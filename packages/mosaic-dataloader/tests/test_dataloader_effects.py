"""The cache and the look-ahead have effects: without them the same rows would come later."""

import json
import logging
import time
from pathlib import Path

import pytest
from dataloader_helpers import SEQ_LEN, loader, numbers, take, write_rows

from mosaic_dataloader import StreamingTextDataset

ROWS_PER_SHARD = 13
SHARDS = 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 20 uncompressed shards of 13 rows of 17 tokens."""
    place = tmp_path_factory.mktemp("effects") / "data"
    write_rows(place, range(ROWS_PER_SHARD * SHARDS), size_limit=1200)
    shards = json.loads((place / "index.json").read_text())["shards"]
    assert [s["samples"] for s in shards] == [ROWS_PER_SHARD] * SHARDS
    return place


def present(cache: Path) -> list[int]:
    """Numbers of the shards in a cache."""
    return sorted(int(path.name.split(".")[1]) for path in cache.glob("shard.*.mds"))


def limit_for(store: Path, shards: int) -> int:
    """A cache_limit with room for so many shards and the index."""
    largest = max(path.stat().st_size for path in store.glob("*.mds"))
    return (store / "index.json").stat().st_size + shards * largest + largest // 2


def test_shards_are_fetched_before_they_are_read(store: Path, tmp_path: Path) -> None:
    """With predownload the cache fills while nobody asks for a batch; without it, it does not."""
    ahead, behind = tmp_path / "ahead", tmp_path / "behind"
    options = {"shuffle": False, "prefetch_factor": 1}
    with_it = loader(
        {"s": {"remote": str(store), "local": str(ahead)}},
        predownload=10 * ROWS_PER_SHARD,
        **options,
    )
    without = loader({"s": {"remote": str(store), "local": str(behind)}}, predownload=0, **options)
    first, second = iter(with_it), iter(without)
    assert take(first, 1) == take(second, 1)
    deadline = time.monotonic() + 60
    while len(present(ahead)) < 10 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(present(ahead)) >= 10
    # A batch in hand and one or two ready: rows 0 to 31 at the most, of three shards.
    assert set(present(behind)) <= {0, 1, 2}
    for one in (with_it, without):
        one.close()
        one.dataset.close()


def test_the_least_recently_used_shard_is_evicted_first(store: Path, tmp_path: Path) -> None:
    """Reading leaves the newest shards behind; one that is used again outlives its neighbours."""
    cache = tmp_path / "cache"
    dataset = StreamingTextDataset(
        seq_len=SEQ_LEN, remote=str(store), local=str(cache), cache_limit=limit_for(store, 5)
    )

    def read(shard: int) -> None:
        assert dataset[shard * ROWS_PER_SHARD][0] == shard * ROWS_PER_SHARD
        dataset.store.release()
        # Times of use are to differ on file systems that count coarsely, too.
        time.sleep(0.02)

    for shard in range(5):
        read(shard)
    assert present(cache) == [0, 1, 2, 3, 4]
    read(5)
    assert present(cache) == [1, 2, 3, 4, 5]
    # Opened again: it has been used more recently than 2.
    read(1)
    read(6)
    assert present(cache) == [1, 3, 4, 5, 6]
    dataset.close()


@pytest.mark.parametrize(
    ("algo", "block", "shards", "warns"),
    [
        ("py1e", ROWS_PER_SHARD * SHARDS, 6, True),
        ("py1e", ROWS_PER_SHARD * 2, 6, False),
        ("naive", ROWS_PER_SHARD * 2, 6, True),
        ("py1s", ROWS_PER_SHARD * SHARDS, 6, False),
        ("py1e", ROWS_PER_SHARD * SHARDS, SHARDS + 1, False),
    ],
)
def test_a_limit_below_the_shuffle_window_is_warned_of(
    store: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    algo: str,
    block: int,
    shards: int,
    warns: bool,
) -> None:
    with caplog.at_level(logging.WARNING):
        one = loader(
            {"s": {"remote": str(store), "local": str(tmp_path / "cache")}},
            shuffle_algo=algo,
            shuffle_block_size=block,
            num_canonical_nodes=1,
            cache_limit=limit_for(store, shards),
        )
    found = [r.getMessage() for r in caplog.records if "fetched again and again" in r.getMessage()]
    assert len(found) == warns
    if warns:
        # The window holds the whole epoch in both cases.
        needed = sum(path.stat().st_size for path in store.glob("*.mds"))
        assert f"the about {needed:,} bytes" in found[0]
    assert numbers(next(iter(one)))
    one.close()
    one.dataset.close()
