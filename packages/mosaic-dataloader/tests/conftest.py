"""Small data sets, written once a session."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Test modules are imported by path (importmode importlib), which leaves their folder out.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))
# Before torch and tokenizers are imported: several test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from reader_processes import Job, readers
from store_support.s3 import s3_server
from tokenizer_fixture import tokenizer_dir  # noqa: F401
from warm import SERVERS, start_if_wanted


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    start_if_wanted(session, "start", "slow_reader", os.environ)
    return (yield)


def _write_rows(folder: Path, numbers: range) -> str:
    # Not imported by pytest-xdist's own process, which runs no test and would take seconds for it.
    from dataloader_helpers import write_rows

    return write_rows(folder, numbers)


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """1,003 rows of 17 tokens, all equal to the row's number, in several shards."""
    return _write_rows(tmp_path_factory.mktemp("data") / "numbered", range(1003))


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> str:
    """257 rows numbered from 5,000."""
    return _write_rows(tmp_path_factory.mktemp("data") / "second", range(5000, 5257))


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Job]]:
    """Starts readers, each a process of its own; see slow_reader.py."""
    with readers(SERVERS["start"], tmp_path_factory.mktemp("outputs")) as begin:
        yield begin


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    """An S3 store's port on loopback; who uses it has a bucket of its own there."""
    with s3_server() as port:
        yield port


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, whose use can be seen from outside, unlinked files included."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
