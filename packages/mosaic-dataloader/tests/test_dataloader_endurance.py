"""Workers, threads, eviction, torch's distributed checkpoint and any layouts, all at once.

A few examples here; `tests/soak` has many of the same.
"""

from pathlib import Path

import pytest
from endurance_helpers import Figures, Run, go_through, runs, unit_runs, write_stores
from hypothesis import given, settings

# torch's checkpoints say so wherever there is no process group.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_stores(tmp_path_factory.mktemp("stores"))


@settings(max_examples=8, deadline=None)
@given(run=runs)
def test_layouts_and_evictions_change_no_sample(stores: tuple[Path, Path], run: Run) -> None:
    go_through(run, stores, Figures())


@settings(max_examples=3, deadline=None)
@given(run=unit_runs())
def test_nor_do_they_in_units_of_a_batch(stores: tuple[Path, Path], run: Run) -> None:
    go_through(run, stores, Figures())
