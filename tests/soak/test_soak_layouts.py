"""What is handed out through any changes of layout is the epoch lists, exactly: many examples.

The properties are those of the dataloader package's quick tests.
"""

import os
from pathlib import Path

import pytest
from endurance_helpers import Figures, Run, go_through, runs, unit_runs, write_stores
from hypothesis import HealthCheck, given, settings
from order_helpers import Leg, check_layouts, grouped_sequences, legs, sequences

from mosaic_dataloader.order.sequence import EpochSequence

ORDERS = int(os.environ.get("MOSAIC_SOAK_ORDERS", "2000"))
LOADERS = int(os.environ.get("MOSAIC_SOAK_LOADERS", "80"))

pytestmark = [
    pytest.mark.soak,
    # torch's checkpoints say so wherever there is no process group.
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]
# Examples are not kept between runs: a soak is to find new ones.
LONG = {
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def figures() -> Figures:
    return Figures()


@settings(max_examples=ORDERS, **LONG)
@given(sequence=sequences(), changes=legs)
def test_orders(sequence: EpochSequence, changes: list[Leg]) -> None:
    check_layouts(sequence, changes)


@settings(max_examples=ORDERS // 4, **LONG)
@given(drawn=grouped_sequences())
def test_orders_in_units_of_a_batch(drawn: tuple[EpochSequence, list[Leg]]) -> None:
    check_layouts(*drawn)


@settings(max_examples=LOADERS, **LONG)
@given(run=runs)
def test_real_loaders(stores: tuple[Path, Path], figures: Figures, run: Run) -> None:
    go_through(run, stores, figures)


@settings(max_examples=LOADERS // 4, **LONG)
@given(run=unit_runs())
def test_real_loaders_in_units_of_a_batch(
    stores: tuple[Path, Path], figures: Figures, run: Run
) -> None:
    go_through(run, stores, figures)


def test_the_examples_reach_what_they_are_for(
    figures: Figures, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers, evictions and ends of epochs come often, not by luck."""
    with capsys.disabled():
        print(f"\n{ORDERS} + {ORDERS // 4} orders; real loaders: {figures}")
    assert figures.runs >= LOADERS
    assert figures.with_workers >= figures.legs // 4
    assert figures.evicted >= figures.legs // 8
    assert figures.epochs >= figures.runs // 8
    assert len(figures.by_algo) == 5
