"""Workers, threads, eviction, torch's distributed checkpoint and any layouts, all at once.

A few examples here; `tests/soak` has many of the same.
"""

import multiprocessing
import os
import signal
import tempfile
from pathlib import Path

import pytest
from dataloader_helpers import loader
from endurance_helpers import Figures, Run, go_through, runs, unit_runs, write_stores
from hypothesis import given, settings

# torch's checkpoints say so wherever there is no process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_stores(tmp_path_factory.mktemp("stores"))


@settings(max_examples=settings().max_examples // 20)
@given(run=runs)
def test_layouts_and_evictions_change_no_sample(stores: tuple[Path, Path], run: Run) -> None:
    go_through(run, stores, Figures())


@settings(max_examples=settings().max_examples // 33)
@given(run=unit_runs())
def test_nor_do_they_in_units_of_a_batch(stores: tuple[Path, Path], run: Run) -> None:
    go_through(run, stores, Figures())


def test_a_killed_worker_leaves_no_files(
    stores: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors from workers would come through shared memory and sockets in a temporary folder."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # Workers are forked, and make their folders there.
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    stream = {"s": {"remote": str(stores[0]), "local": str(tmp_path / "cache")}}
    one = loader(stream, num_workers=2, batch_size=3)
    iterator = iter(one)
    first = next(iterator)
    workers = [child.pid for child in multiprocessing.active_children()]
    assert len(workers) == 2
    with pytest.raises(RuntimeError, match="worker"):
        os.kill(workers[0], signal.SIGKILL)
        for _ in iterator:
            pass
    one.close()
    # The default cache, which nothing was put into.
    assert [path for path in temporary.rglob("*") if not path.name.startswith("mosaic-")] == []
    assert not [name for name in os.listdir("/dev/shm") if str(workers[0]) in name.split("_")]
    # What a caller has been given stays its own.
    assert first[0]["input"].is_contiguous()
    first[1].fill_(-100)
