"""Data of known rows; nothing is collected where torchtitan is another one."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest

try:
    _FITS = version("torchtitan").startswith("0.3.") and bool(version("mosaic-titan"))
except PackageNotFoundError:
    _FITS = False
collect_ignore_glob = [] if _FITS else ["test_*.py"]

SEQ_LEN = 64
EOS = 1


def write_rows(out: Path, numbers: range, seed: int) -> str:
    """Rows of T+1 tokens that begin with their number, and where their documents end."""
    from streaming import MDSWriter

    rng = np.random.default_rng(seed)
    columns = {"tokens": "ndarray:uint16", "document_ends": "ndarray:int32"}
    with MDSWriter(out=str(out), columns=columns, size_limit=1 << 14) as writer:
        for number in numbers:
            tokens = rng.integers(2, 1000, SEQ_LEN + 1).astype(np.uint16)
            tokens[:2] = 10 + number // 100, 200 + number % 100
            ends = np.sort(rng.choice(np.arange(8, SEQ_LEN), 3, replace=False)).astype(np.int32)
            tokens[ends] = EOS
            writer.write({"tokens": tokens, "document_ends": ends})
    return str(out)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streams `web` and `code`, validation rows, documents to pack, and `data.toml`."""
    from streaming import MDSWriter

    folder = tmp_path_factory.mktemp("data")
    for name, numbers in (("web", range(300)), ("code", range(300, 400)), ("val", range(21))):
        write_rows(folder / name, numbers, numbers.start + 1)
    rng = np.random.default_rng(5)
    with MDSWriter(out=str(folder / "documents"), columns={"tokens": "bytes"}) as writer:
        for length in rng.integers(3, 200, 150):
            writer.write({"tokens": rng.integers(2, 1000, length).astype(np.int64).tobytes()})
    (folder / "data.toml").write_text(
        f"""
[mosaic_dataloader.dataset]
shuffle = true
num_canonical_nodes = 1

[mosaic_dataloader.dataset.streams.web]
local = "{folder}/web"
proportion = 0.7

[mosaic_dataloader.dataset.streams.code]
local = "{folder}/code"
proportion = 0.3

[mosaic_validation_dataloader.dataset]
local = "{folder}/val"
"""
    )
    return folder
