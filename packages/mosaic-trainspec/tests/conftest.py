"""The process that runs the validator's cases; see `trainspec_validation_worker.py`."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Test modules are imported by path (importmode importlib), which leaves their folder out.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))
# Before torch is imported: several ranks share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from warm import SERVERS, start_if_wanted


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    start_if_wanted(session, "validation_worker", "trainspec_validation_worker", os.environ)
    return (yield)


@pytest.fixture(scope="session")
def validation_worker() -> Any:
    """Runs all cases when it is told, in a line, where to write what came of them."""
    return SERVERS["validation_worker"]
