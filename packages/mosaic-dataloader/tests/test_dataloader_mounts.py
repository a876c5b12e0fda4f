"""Disks that are full, and data that nobody can write beside, in mount namespaces of their own."""

import ctypes
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dataloader_helpers import loader, take, write_rows
from reader_processes import Job

ROWS = 160
BATCHES = 40


def may_mount() -> bool:
    """Whether a process of ours may have mounts of its own; a child tries."""
    pid = os.fork()
    if not pid:
        os._exit(0 if ctypes.CDLL(None).unshare(0x00020000) == 0 else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


pytestmark = pytest.mark.skipif(
    shutil.which("mount") is None or not may_mount(), reason="needs the right to mount"
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 shards of about 128 KB."""
    folder = tmp_path_factory.mktemp("wide") / "data"
    return Path(write_rows(folder, range(ROWS), length=4000, size_limit=130_000, hashes=["sha1"]))


def expected(data: Path, batches: int = BATCHES) -> list[int]:
    plain = loader(str(data), shuffle_block_size=100, cache_dir=str(data.parent / "orders"))
    rows = [row for batch in take(iter(plain), batches) for row in batch]
    plain.close()
    return rows


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_one_line_and_a_limit_goes_on_from_there(
    wide: Path, tmp_path: Path, start: Callable[..., Job], workers: int
) -> None:
    disk, state = tmp_path / "disk", tmp_path / "state"
    disk.mkdir()
    job = {
        "remote": wide,
        "local": disk / "cache",
        "state": state,
        "workers": workers,
        "mounts": [["-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]],
    }
    full = start(**job, batches=BATCHES)
    error = full.error()
    assert all(w in error for w in ("shard.", "No space left", str(disk), "cache_limit")), error
    assert "trying again" not in error
    before = full.join()
    wanted = expected(wide)
    assert before == wanted[: len(before)]
    limited = start(**job, batches=BATCHES - len(before) // 8, cache_limit=1_000_000)
    assert before + limited.finish() == wanted


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_data_on_a_read_only_file_system_are_read_and_nothing_is_written_there(
    wide: Path, tmp_path: Path, start: Callable[..., Job], compression: str | None
) -> None:
    data = tmp_path / "data"
    if compression:
        write_rows(data, range(ROWS), length=4000, size_limit=130_000, compression=compression)
    else:
        shutil.copytree(wide, data)
    bind = [["--bind", str(data), str(data)], ["-o", "remount,ro,bind", str(data)]]
    wanted = expected(wide)
    before = sorted(p.name for p in data.iterdir())
    cache = tmp_path / "cache"
    jobs = [
        # Read where they are; fetched from there; a whole cache whose store is out of reach.
        start(remote=None, local=data, mounts=bind, batches=BATCHES, workers=1,
              options={"cache_dir": str(cache)}),
        start(remote=data, local=tmp_path / "copy", mounts=bind, batches=BATCHES,
              options={"cache_dir": str(cache)}),
    ]  # fmt: skip
    if not compression:
        gone = {"remote": "s3://bucket/gone", "options": {"cache_dir": str(cache)}}
        jobs.append(start(**gone, local=data, mounts=bind, batches=BATCHES))
    assert [job.finish() for job in jobs] == [wanted] * len(jobs)
    assert sorted(p.name for p in data.iterdir()) == before


def test_a_cache_that_cannot_be_written_and_is_not_whole_is_refused_in_one_line(
    wide: Path, tmp_path: Path, start: Callable[..., Job]
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(wide, cache)
    (cache / "shard.00003.mds").unlink()
    bind = [["--bind", str(cache), str(cache)], ["-o", "remount,ro,bind", str(cache)]]
    for _ in range(2):
        error = start(remote=wide, local=cache, mounts=bind, batches=1).error()
        assert all(word in error for word in (str(cache), "Read-only", "another local")), error
        # A cache that was written to before is no other case.
        (cache / ".mosaic").mkdir(exist_ok=True)
        (cache / ".mosaic" / "lock").touch()
