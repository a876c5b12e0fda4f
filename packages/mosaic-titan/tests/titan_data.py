"""Rows that say which they are."""

from pathlib import Path

import numpy as np
from streaming import MDSWriter

SEQ_LEN = 64
EOS = 1


def write_rows(out: Path, numbers: range, seed: int) -> str:
    """Rows of T+1 tokens that begin with their number, and where their documents end."""
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
