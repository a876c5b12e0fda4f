"""What is counted and reported of loading, beside what stores do (test_dataloader_stores.py)."""

import time
from pathlib import Path
from typing import Any

import pytest
from dataloader_helpers import SEQ_LEN, loader, numbers, write_rows
from streaming import MDSWriter

from mosaic_dataloader.inspect import Steps, forecast
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
from mosaic_dataloader.sources import packed

TEXTS = 40


@pytest.mark.parametrize(("workers", "packing"), [(0, False), (1, False), (1, True)])
def test_texts_are_counted_and_a_tokenizer_that_hangs_is_named(
    tmp_path: Path,
    tokenizer_dir: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    packing: bool,
) -> None:
    from transformers import AutoTokenizer

    with MDSWriter(out=str(tmp_path / "texts"), columns={"text": "str"}) as writer:
        for _ in range(TEXTS):
            writer.write({"text": "word " * SEQ_LEN})
    plain = BatchTokenizer.encode
    # In a worker it is slow as well: it is forked from here.
    slow = [1.0]

    def encode(self: BatchTokenizer, texts: Any) -> Any:
        time.sleep(slow[0])
        return plain(self, texts)

    monkeypatch.setattr(BatchTokenizer, "encode", encode)
    one = loader(
        str(tmp_path / "texts"),
        tokenizer=AutoTokenizer.from_pretrained(tokenizer_dir),
        num_workers=workers,
        packing=packing,
        **({"packing_lanes": 4} if packing else {}),
        prefetch_factor=1,
        stall_warning=0.3,
        infinite=False,
        cache_dir=str(tmp_path / "cache"),
    )
    iterator = iter(one)
    next(iterator)
    first = next(r.getMessage() for r in caplog.records if "no batch for" in r.getMessage())
    if workers:
        assert first.endswith('a worker process, which reads or encodes samples of "data"')
    else:
        assert first.endswith("waiting for the tokenizer, which encodes 8 texts")
    slow[0] = 0.0
    for _ in iterator:
        pass
    assert one.loading_counters()["texts_encoded"] == TEXTS
    one.close()


def test_a_wait_for_anything_else_says_where_it_is(
    numbered: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = EpochSequence.rows

    def rows(self: EpochSequence, start: int, stop: int) -> Any:
        time.sleep(0.6)
        return plain(self, start, stop)

    one = loader(numbered, stall_warning=0.2, shuffle=False)
    assert one.loading_counters()["wait_seconds"] == 0
    with monkeypatch.context() as slow:
        slow.setattr(EpochSequence, "rows", rows)
        iterator = iter(one)
        assert numbers(next(iterator)) == list(range(8))
    (line, came) = [r.getMessage() for r in caplog.records if "batch" in r.getMessage()][:2]
    assert "waiting for _full_batches (order/batches.py, line " in line
    assert came.startswith("the batch came after ")
    deadline = time.monotonic() + 60
    while one.loading_counters()["batches_ready"] < 16 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert one.loading_counters()["batches_ready"] == 16
    one.close()
    assert one.loading_counters()["batches_ready"] == 0


LENGTH = 257


def fetched(one: Any) -> dict[str, float]:
    """What all streams fetched, by what is counted."""
    total = {"shards_fetched": 0.0, "bytes_fetched": 0.0}
    for name, count in one.loading_counters().items():
        if "/" in name:
            total[name.rpartition("/")[2]] += count
    return total


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle_block_size": 96},
        {"shuffle_block_size": 96, "num_nodes": 2, "num_canonical_nodes": 4, "dp_world_size": 4},
        {"shuffle": False},
        {"packing": True, "packing_lanes": 4, "shuffle_block_size": 96},
        # Of rows that are left out nothing is fetched; documents are read to know what follows.
        {"shuffle": False, "skip": ["42:242"]},
        {"packing": True, "packing_lanes": 4, "shuffle": False, "skip": ["400:2400"]},
    ],
)
def test_a_forecast_is_what_a_run_then_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Also that its cache is large enough, and not much larger than that."""
    store = tmp_path / "store"
    write_rows(store, range(640), length=LENGTH, size_limit=17_000, hashes=["xxh64"])
    everything = sum(path.stat().st_size for path in store.glob("*.mds"))
    # Little is read beyond the last batch that is taken.
    monkeypatch.setattr(packed, "_BLOCK_TOKENS", 1 << 11)
    near = {"batch_size": 4, "predownload": 4, "prefetch_factor": 1}
    options = {"dp_world_size": 1, "num_nodes": 1, **near, **options}
    packing = options.get("packing", False)
    own = options["dp_world_size"] // options["num_nodes"]

    def opened(name: str, rank: int, **more: Any) -> Any:
        stream = {"web": {"remote": str(store), "local": str(tmp_path / name)}}
        return loader(stream, dp_rank=rank, **options, **more)

    def run(name: str, steps: int, **more: Any) -> dict[str, float]:
        """What the ranks of the first machine fetch in so many steps."""
        ranks = [opened(name, rank, **more) for rank in range(own)]
        iterators = [iter(one) for one in ranks]
        for _ in range(steps):
            for iterator in iterators:
                next(iterator)
        total = {"shards_fetched": 0.0, "bytes_fetched": 0.0}
        for one in ranks:
            one.close()
            for key, count in fetched(one).items():
                total[key] += count
            one.dataset.close()
        return total

    one = opened("forecast", 0)
    rows = one.batch_size * one.dp_world_size
    # With packing, 640 documents of 257 tokens are many rows of 16.
    epoch = one.run.source.epoch_rows() // rows
    steps = epoch // 2
    found, whole = (forecast(Steps(one, rows=rows, total=total)) for total in (steps, epoch))
    assert found is not None and whole is not None
    assert (found.steps, found.left) == (steps, steps)
    counted = run("plain", steps)
    assert counted["bytes_fetched"] == pytest.approx(int(found.needed[-1]), rel=0.1)
    assert counted["shards_fetched"] == pytest.approx(int(found.shards[-1]), rel=0.1)
    assert counted["bytes_fetched"] < 0.8 * everything or not options.get("shuffle", True)
    if own == 1 and not packing and "skip" not in options:
        enough = run("enough", epoch, cache_limit=whole.cache)
        assert enough["bytes_fetched"] == everything, "a shard was fetched twice"
        if options.get("shuffle", True):
            less = run("less", epoch, cache_limit=whole.cache * 8 // 10)
            assert less["bytes_fetched"] > everything, "a smaller cache would do"
    one.close()
