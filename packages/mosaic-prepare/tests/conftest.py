"""What the tests share with those of mosaic-dataloader, which this package depends on."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Test modules are imported by path (importmode importlib), which leaves their folder out.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[2] / "mosaic-dataloader" / "tests"))
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))
# Before torch and tokenizers are imported: several test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray would report to its makers that it is used.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Under `uv run` it would start every worker through `uv run`, which takes a minute.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import pytest
from tokenizer_fixture import tokenizer_dir  # noqa: F401
from warm import SERVERS, start_if_wanted


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    start_if_wanted(session, "kill_runs", "kill_runs", os.environ)
    return (yield)


@pytest.fixture(scope="session")
def kill_runs() -> Iterator[Any]:
    """Runs preparations that are killed; see `kill_runs.py`."""
    server = SERVERS["kill_runs"]
    yield server
    server.stdin.close()
    server.wait(30)
