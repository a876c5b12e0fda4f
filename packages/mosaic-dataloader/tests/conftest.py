"""Small data sets, written once a session."""

import os
import sys
from pathlib import Path

# Test modules are imported by path (importmode importlib), which leaves their folder out.
sys.path.insert(0, str(Path(__file__).parent))
# Before torch and tokenizers are imported: several test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import dataloader_helpers as helpers
import pytest


@pytest.fixture(scope="session")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> str:
    """1,003 rows of 17 tokens, all equal to the row's number, in several shards."""
    return helpers.write_rows(tmp_path_factory.mktemp("data") / "numbered", range(1003))


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> str:
    """257 rows numbered from 5,000."""
    return helpers.write_rows(tmp_path_factory.mktemp("data") / "second", range(5000, 5257))
