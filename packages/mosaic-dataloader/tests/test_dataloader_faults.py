"""What goes wrong is told in one line, once and again, and costs nothing that was there."""

import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from dataloader_helpers import loader, numbers, take, write_rows
from streaming.base.storage.download import LocalDownloader
from streaming.base.util import merge_index

from mosaic_dataloader import MosaicDataError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """100 rows in small shards."""
    return Path(write_rows(tmp_path / "source", range(100), size_limit=1000))


def one_line(caught: pytest.ExceptionInfo[MosaicDataError], *parts: str) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message
    return message


def test_a_remote_that_is_its_own_cache_is_read_in_place(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is spelled, a limit never evicts the data themselves."""
    other = write_rows(tmp_path / "other", range(500, 600), size_limit=1000)
    before = sorted(p.name for p in source.iterdir())
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    for remote in (f"{source}/", "source", "./source", str(tmp_path / "link")):
        streams = {
            "a": {"remote": remote, "local": str(source)},
            "b": {"remote": other, "local": str(tmp_path / "cache")},
        }
        one = loader(streams, cache_limit=20_000)
        assert sorted(r for b in take(iter(one), 25) for r in b) == [*range(100), *range(500, 600)]
        one.close()
        one.dataset.close()
        assert sorted(p.name for p in source.iterdir()) == before


def test_a_cache_belongs_to_one_source(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    other = write_rows(tmp_path / "other", range(500, 600), size_limit=1000)
    with pytest.raises(MosaicDataError) as caught:
        loader(
            {"a": {"remote": str(source), "local": cache}, "b": {"remote": other, "local": cache}}
        )
    one_line(caught, '"a"', '"b"', "local of its own")
    # The data at the remote change; the next start that looks at them finds out.
    take(iter(loader({"a": {"remote": str(source), "local": cache}})), 3)
    shutil.rmtree(source)
    write_rows(source, range(101), size_limit=1000)
    with pytest.raises(MosaicDataError) as caught:
        loader({"a": {"remote": str(source), "local": cache}})
    one_line(caught, '"a"', cache, "indexes differ", "delete")
    # A remote that is gone stops nobody whose cache has an index.
    shutil.rmtree(source)
    stream = {"remote": str(source), "local": cache, "download_retry": 0}
    assert len(loader({"a": stream}).dataset) == 100
    # The same relative path means different data in different working directories.
    rows = []
    for name, first in (("here", 0), ("there", 700)):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name / "data", range(first, first + 100), size_limit=1000)
        monkeypatch.chdir(tmp_path / name)
        whole = loader(
            {"a": {"remote": "data"}}, cache_dir=str(tmp_path / "caches"), infinite=False
        )
        rows.append(sorted(n for b in whole for n in numbers(b)))
    assert rows[0][0] == 0
    assert rows[1][0] == 700


def test_merged_indexes_are_fetched(tmp_path: Path) -> None:
    """Parallel conversion leaves shards in folders below one index."""
    parts = tmp_path / "parts"
    for part in range(3):
        write_rows(parts / str(part), range(part * 40, part * 40 + 40), size_limit=1000)
    merge_index(str(parts), keep_local=True)
    stream = {"m": {"remote": str(parts), "local": str(tmp_path / "cache")}}
    index = (parts / "index.json").stat().st_size
    one = loader(stream, cache_limit=index + 8000, batch_size=10)
    assert sorted(r for b in take(iter(one), 12) for r in b) == list(range(120))
    held = sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.mds"))
    assert 0 < held <= 8000
    one.close()
    one.dataset.close()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_is_raised_again_and_moves_nothing(source: Path, num_workers: int) -> None:
    one = loader(str(source), shuffle=False, num_workers=num_workers)
    (source / "shard.00004.mds").write_bytes(b"cut")
    iterator = iter(one)
    good = 0
    with pytest.raises(MosaicDataError) as caught:
        for _ in iterator:
            good += 1
    one_line(caught, "shard.00004.mds", "restore")
    position = one.samples_seen
    assert position == good * 8 > 0
    for _ in range(2):
        with pytest.raises(MosaicDataError):
            next(iterator)
    assert one.samples_seen == position
    assert bool(one)
    one.close()


def test_closing_from_another_thread_ends_a_wait(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def hang(self: Any, remote: str, local: str, timeout: float) -> None:
        stopped.wait(30)
        raise OSError("the store hung")

    one = loader({"s": {"remote": str(source), "local": str(tmp_path / "c"), "download_retry": 0}})
    monkeypatch.setattr(LocalDownloader, "_download_file_impl", hang)
    iterator = iter(one)
    ended: list[str] = []
    waiter = threading.Thread(target=lambda: ended.append(str(list(iterator))))
    waiter.start()
    time.sleep(0.2)
    closer = threading.Thread(target=one.close)
    closer.start()
    waiter.join(20)
    assert ended == ["[]"]
    stopped.set()
    closer.join()
    assert one.samples_seen == 0


def test_workers_leave_the_trainers_random_numbers_alone(source: Path) -> None:
    drawn = []
    for num_workers in (0, 1):
        torch.manual_seed(5)
        one = loader(str(source), num_workers=num_workers)
        take(iter(one), 3)
        drawn.append(torch.rand(1).item())
        one.close()
    assert drawn[0] == drawn[1]


def test_a_state_brings_an_order_that_a_fresh_start_could_not_have(source: Path) -> None:
    first = loader(
        str(source), batching_method="device_per_stream", batch_size=4, dp_world_size=2, num_nodes=2
    )
    take(iter(first), 3)
    state = first.state_dict()
    # Two canonical nodes from the first start; four nodes would want four.
    options = {"batching_method": "device_per_stream", "num_canonical_nodes": 2}
    moved = loader(str(source), batch_size=2, dp_world_size=4, num_nodes=4, **options)
    assert moved.state_dict()
    with pytest.raises(MosaicDataError, match="divisible by the number of nodes"):
        moved.check()
    with pytest.raises(MosaicDataError, match="divisible by the number of nodes"):
        iter(moved)
    moved.load_state_dict(state)
    take(iter(moved), 2)
    assert moved.samples_seen == 5 * 8


def test_a_cache_that_cannot_be_written_is_read_if_it_is_whole(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(source, cache)
    # Root may write anywhere, so the look at the permission is what is tested.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    stream = {"s": {"remote": "s3://bucket/gone", "local": str(cache)}}
    assert len(take(iter(loader(stream)), 10)) == 10
    assert not (cache / ".mosaic").exists()
