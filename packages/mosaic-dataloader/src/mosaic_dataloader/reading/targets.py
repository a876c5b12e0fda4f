"""Counting the target tokens that one rank is handed."""

import numpy as np

from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.reading.rows import RowBatch


def targets_per_stream(request: BatchRequest, rows: RowBatch, mixture: Mixture) -> Int64Array:
    """Target tokens of one rank's rows: labels that are not ignored.

    Args:
        request: What was read.
        rows: What was read for it, on the CPU.
        mixture: The streams.

    Returns:
        int64[streams].
    """
    if rows.full:
        full: Int64Array = request.own_per_stream * rows.labels.shape[1]
        return full
    per_row = np.count_nonzero(rows.labels.numpy() >= 0, axis=1)
    # A row of padding (-1) has no target, whatever stream it is taken for.
    owners = mixture.stream_of(np.maximum(request.ids, 0))
    counts = np.bincount(owners, weights=per_row, minlength=len(mixture.streams))
    return counts.astype(np.int64)
