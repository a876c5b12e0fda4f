"""Do the stored rows have the length that is trained on?"""

from collections.abc import Collection
from typing import Any

from mosaic_train.checks.report import Report

# Lengths are told from sizes in the index, to within some bytes per row.
_TOLERANCE = 0.05
# Of each MDS shard: its own description, in JSON.
_SHARD_HEADER = 512
# Of each sample: its offset, the size of a column without a fixed one, and the array's shape.
_OFFSET, _SIZE, _SHAPE = 4, 4, 2


def check_rows(
    dataset: Any, report: Report, *, task: str = "training", skip: Collection[str] = ()
) -> None:
    """Warn of tokens that are never trained on, and of batches that are mostly padding.

    Args:
        dataset: An opened `StreamingTextDataset`.
        report: Where the warnings go.
        task: "training" or "validation", whose `seq_len` it is.
        skip: Streams of whose token ids it is known that they are read in a wrong way.
    """
    from mosaic_dataloader.prepared import prepared_row_length

    if getattr(dataset, "packing", False):  # rows are made to measure
        return
    wanted = dataset.seq_len
    for stream in dataset.streams:
        if stream.name in skip:
            continue
        noted = prepared_row_length(stream)
        tokens = mean_tokens(stream) if noted is None else noted + 1.0
        if tokens is None:
            continue
        tolerance = _TOLERANCE if noted is None else 0
        hold = f"hold {'about ' if noted is None else ''}{tokens:,.0f} tokens"
        if tokens > (wanted + 1) * (1 + tolerance):
            lost = 1 - (wanted + 1) / tokens
            report.warn(
                f'rows of stream "{stream.name}" {hold}, of which {task}.seq_len = {wanted} takes '
                f"the first {wanted + 1}: {lost:.0%} of the tokens are never trained on; raise "
                f"{task}.seq_len, or prepare the data for this one"
            )
        elif tokens < wanted * (1 - tolerance):
            section = f"mosaic_{'' if task == 'training' else 'validation_'}dataloader"
            remedy = (
                f"if each row is a document, set {section}.dataset.packing = true"
                if noted is None
                else "prepare the data for this one"
            )
            report.warn(
                f'rows of stream "{stream.name}" {hold}, fewer than {task}.seq_len = {wanted}: '
                f"{1 - tokens / wanted:.0%} of what is computed is padding; lower {task}.seq_len, "
                f"or {remedy}"
            )


def mean_tokens(stream: Any) -> float | None:
    """Tokens in a row of an opened stream, on average, by the sizes in its index.

    Returns:
        None where the sizes do not tell: text, arrays of any or several types, and rows of several
        columns.
    """
    column = stream.column
    if column.kind == "text" or stream.dtypes != {column.dtype} or column.dtype is None:
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
