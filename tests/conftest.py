"""Skip what this machine has too few GPUs for; ranks and data for the rest."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test modules are imported by path (importmode importlib), which leaves this folder out.
sys.path.insert(0, str(Path(__file__).parent))

# Before torch is imported: ranks, which share the cores, are forks of this process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from integration_support.client import SEQ_LEN, Numbered, RankServer, environment
from integration_support.fork_client import ForkServer
from warm import SERVERS, start_if_wanted


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    # Whether the machine has GPUs must make no difference.
    env = environment() | {"CUDA_VISIBLE_DEVICES": ""}
    launcher = {"MOSAIC_TRAIN_LAUNCHER_PID": str(os.getpid())}
    start_if_wanted(session, "ranks", "integration_support.server", env | launcher)
    start_if_wanted(session, "torchruns", "integration_support.fork_server", env)
    return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    import torch  # only GPU tests wait for this import

    needed = marker.kwargs.get("count", marker.args[0] if marker.args else 1)
    found = torch.cuda.device_count()
    if not found:
        pytest.skip("needs a CUDA device: none here")
    if found < needed:
        pytest.skip(f"needs {needed} CUDA device(s), this machine has {found}")


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    """Groups of ranks on CPU."""
    server = RankServer(SERVERS["ranks"], tmp_path_factory.mktemp("ranks"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def torchruns() -> Iterator[ForkServer]:
    """Torchruns and their ranks, on CPU as well."""
    server = ForkServer(SERVERS["torchruns"])
    yield server
    server.close()


@pytest.fixture(scope="session")
def numbered(ranks: RankServer) -> Numbered:
    """503 rows, in several shards."""
    local, size = str(ranks.folder / "numbered"), 503
    rows = [[number] * (SEQ_LEN + 1) for number in range(size)]
    ranks.run("write_rows", out=local, rows=rows).succeeded()
    found = ranks.run(
        "order", streams={"a": {"local": local}}, count=1200, seq_len=SEQ_LEN, shuffle=True
    )
    (line,) = found.succeeded().ledger(0).of("order")
    assert line["epoch"] == size
    return Numbered(local, size, line["rows"])
