"""A state knows its run: what version 1 wrote continues, and nothing else passes for a run."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

import make_states

WRITTEN: dict[str, Any] = json.loads(make_states.STATES.read_text())


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the fixtures."""
    root = tmp_path_factory.mktemp("fixed")
    make_states.write_data(root)
    return root


@pytest.mark.parametrize("ranks", [None, 1])
@pytest.mark.parametrize("name", make_states.CASES)
def test_states_of_version_1_continue_exactly(
    name: str, ranks: int | None, fixed: Path, tmp_path: Path
) -> None:
    case = make_states.CASES[name]
    if ranks == case.ranks:
        pytest.skip("the layout that wrote it")
    loaders = make_states.open_case(case, fixed, tmp_path, ranks)
    for one in loaders:
        one.load_state_dict(WRITTEN[name]["state"])
    state = make_states.joined_state(loaders)
    assert json.loads(state["mosaic"])["version"] == 2
    again = make_states.open_case(case, fixed, tmp_path, ranks)
    for one in again:
        one.load_state_dict(state)
    assert make_states.joined_state(again) == state
    assert make_states.rows_of(loaders, case) == WRITTEN[name]["batches"]
    assert make_states.rows_of(again, case) == WRITTEN[name]["batches"]
