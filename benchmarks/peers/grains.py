"""grain's MapDataset over a memory-mapped array."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def batches(folder: Path, batch: int, row_tokens: int, workers: int = 0) -> Iterator[Any]:
    import grain
    import numpy as np

    class Rows:
        def __init__(self) -> None:
            tokens = np.asarray(np.memmap(folder / "tokens.npy", np.uint16, "r"))
            self._rows = tokens.reshape(-1, row_tokens)

        def __len__(self) -> int:
            return len(self._rows)

        def __getitem__(self, index: int) -> Any:
            return self._rows[index]

    def split(row: Any) -> tuple[Any, Any]:
        tokens = row.astype(np.int64)
        return tokens[:-1], tokens[1:]

    dataset = grain.MapDataset.source(Rows()).seed(0).shuffle().repeat().map(split)
    # Its default of 16 reading threads only slows rows in memory down: the best of 0, 1 and 16.
    options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    found = dataset.to_iter_dataset(options).batch(batch, drop_remainder=True)
    if workers:
        from absl import flags

        # Its workers are told this process's flags, which absl wants to have parsed.
        flags.FLAGS.mark_as_parsed()
        found = found.mp_prefetch(grain.multiprocessing.MultiprocessingOptions(num_workers=workers))
    yield from found
