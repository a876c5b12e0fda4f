"""Do the stored rows have the length that is trained on?"""

from typing import Any

from mosaic_train.checks.report import Report

# Lengths are told from sizes in the index, to within some bytes per row.
_TOLERANCE = 0.05
# Of each MDS shard: its own description, in JSON.
_SHARD_HEADER = 512
# Of each sample: its offset, the size of a column without a fixed one, and the array's shape.
_OFFSET, _SIZE, _SHAPE = 4, 4, 2


def check_rows(dataset: Any, report: Report) -> None:
    """Warn of tokens that are never trained on, and of batches that are mostly padding.

    Args:
        dataset: An opened `StreamingTextDataset`.
        report: Where the warnings go.
    """
    if getattr(dataset, "packing", False):  # rows are made to measure
        return
    wanted = dataset.seq_len
    for stream in dataset.streams:
        tokens = mean_tokens(stream)
        if tokens is None:
            continue
        if tokens > (wanted + 1) * (1 + _TOLERANCE):
            lost = 1 - (wanted + 1) / tokens
            report.warn(
                f'rows of stream "{stream.name}" hold about {tokens:,.0f} tokens, of which '
                f"seq_len {wanted} takes the first {wanted + 1}: {lost:.0%} of the tokens are "
                "never trained on; raise training.seq_len, or prepare the data for this one"
            )
        elif tokens < wanted * (1 - _TOLERANCE):
            report.warn(
                f'rows of stream "{stream.name}" hold about {tokens:,.0f} tokens, fewer than '
                f"seq_len {wanted}: {1 - tokens / wanted:.0%} of what is computed is padding; "
                "lower training.seq_len, or, if each row is a document, set "
                "mosaic_dataloader.dataset.packing = true"
            )


def mean_tokens(stream: Any) -> float | None:
    """Tokens in a row of an opened stream, on average, by the sizes in its index.

    Returns:
        None where the sizes do not tell: text, arrays of any type, and rows of several columns.
    """
    column = stream.column
    if column.kind == "text" or column.dtype is None:
        return None
    readers = [reader for reader in stream.readers if hasattr(reader, "column_sizes")]
    if len(readers) < len(stream.readers):  # another format than MDS
        return None
    samples = size = 0
    for reader in readers:
        if len(reader.column_sizes) > 1:
            return None
        fixed = reader.column_sizes[0]
        if fixed is not None:
            size += len(reader) * fixed
        else:
            each = _OFFSET + _SIZE + (_SHAPE if column.has_shape else 0)
            size += max(reader.get_raw_size() - _SHARD_HEADER - len(reader) * each, 0)
        samples += len(reader)
    return size / samples / float(column.dtype.itemsize)
