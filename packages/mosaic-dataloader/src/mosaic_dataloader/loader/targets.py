"""Counting the target tokens that one rank is handed."""

import numpy as np
import torch

from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.order.mixture import Int64Array, Mixture


def targets_per_stream(request: BatchRequest, labels: torch.Tensor, mixture: Mixture) -> Int64Array:
    """Target tokens of one rank's rows: labels that are not ignored.

    Args:
        request: What was read.
        labels: int64[B, T] on the CPU, negative where ignored.
        mixture: The streams.

    Returns:
        int64[streams].
    """
    values = labels.numpy()
    # Rows are filled from their beginning: one with a last target is full of them.
    if values[:, -1].min() >= 0:
        full: Int64Array = request.own_per_stream * values.shape[1]
        return full
    per_row = np.count_nonzero(values >= 0, axis=1)
    # A row of padding (-1) has no target, whatever stream it is taken for.
    owners = mixture.stream_of(np.maximum(request.ids, 0))
    counts = np.bincount(owners, weights=per_row, minlength=len(mixture.streams))
    return counts.astype(np.int64)
