"""Writing token rows into input and label arrays."""

from typing import Any

from numpy.typing import NDArray

from mosaic_dataloader.order.mixture import Int64Array

# TorchTitan's and torch's cross entropy's ignore index.
IGNORE_INDEX = -100


def fill_row(
    inputs: Int64Array, labels: Int64Array, row: int, tokens: NDArray[Any], pad_id: int
) -> None:
    """Write one token row.

    With at least T+1 tokens the row gives T inputs and T labels; a row of exactly T tokens keeps
    them all as inputs and ignores its last label; shorter rows are padded.

    Args:
        inputs: int64[B, T], written at ``row``.
        labels: int64[B, T], the inputs shifted by one; ``IGNORE_INDEX`` where nothing follows.
        row: Which row.
        tokens: integer[n], token ids.
        pad_id: Token id of padded inputs.
    """
    length = inputs.shape[1]
    count = len(tokens)
    if count > length:
        inputs[row] = tokens[:length]
        labels[row] = tokens[1 : length + 1]
        return
    inputs[row, :count] = tokens
    inputs[row, count:] = pad_id
    targets = max(count - 1, 0)
    labels[row, :targets] = tokens[1:]
    labels[row, targets:] = IGNORE_INDEX


def fill_padding(inputs: Int64Array, labels: Int64Array, row: int, pad_id: int) -> None:
    """Write a row that stands for no sample: all labels are ignored."""
    inputs[row] = pad_id
    labels[row] = IGNORE_INDEX
