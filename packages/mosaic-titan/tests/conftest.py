"""Data of known rows; nothing is collected where torchtitan is another one."""

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Test modules are imported by path (importmode importlib), which leaves their folder out.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))
# Before torch is imported: several ranks share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from streaming import MDSWriter
from titan_data import write_rows
from warm import SERVERS, start_if_wanted

try:
    _FITS = version("torchtitan").startswith("0.3.") and bool(version("mosaic-titan"))
except PackageNotFoundError:
    _FITS = False
collect_ignore_glob = [] if _FITS else ["test_*.py"]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    local = {"MASTER_ADDR": "localhost", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    start_if_wanted(session, "titan_worker", "titan_worker", {**os.environ, **local})
    return (yield)


@pytest.fixture(scope="session")
def titan_worker() -> Any:
    """Runs jobs when it is told where they are listed; see `titan_worker.py`."""
    return SERVERS["titan_worker"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streams `web` and `code`, the same for validation, documents to pack, and `data.toml`."""
    folder = tmp_path_factory.mktemp("data")
    rows = {"web": range(300), "code": range(300, 400)}
    rows |= {"val_web": range(13), "val_code": range(13, 21)}
    for name, numbers in rows.items():
        write_rows(folder / name, numbers, numbers.start + 1)
    rng = np.random.default_rng(5)
    with MDSWriter(out=str(folder / "documents"), columns={"tokens": "bytes"}) as writer:
        for length in rng.integers(3, 200, 24):
            writer.write({"tokens": rng.integers(2, 1000, length).astype(np.int64).tobytes()})
    (folder / "data.toml").write_text(
        f"""
[mosaic_dataloader.dataset]
shuffle = true
num_canonical_nodes = 1

[mosaic_dataloader.dataset.streams.web]
local = "{folder}/web"

[mosaic_dataloader.dataset.streams.code]
local = "{folder}/code"

# The second one begins inside the third step of four rows.
[[mosaic_dataloader.dataset.stages]]
samples = 10
weights = {{ web = 0.7, code = 0.3 }}

[[mosaic_dataloader.dataset.stages]]
weights = {{ web = 0.25, code = 0.75 }}

[mosaic_validation_dataloader.dataset.streams.web]
local = "{folder}/val_web"

[mosaic_validation_dataloader.dataset.streams.code]
local = "{folder}/val_code"
"""
    )
    return folder
