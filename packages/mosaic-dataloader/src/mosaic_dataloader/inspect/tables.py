"""The streams and the run, as tables and lines."""

from collections.abc import Collection, Sequence

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.reading.manifest import prepared_tokens


def stream_table(dataset: StreamingTextDataset) -> str:
    """One line for each stream: what it holds."""
    rows: list[Sequence[str]] = [("stream", "samples", "tokens", "shards", "size")]
    for opened, size in zip(dataset.streams, dataset.mixture.streams, strict=True):
        tokens = prepared_tokens(opened)
        rows.append(
            (
                *(opened.name, f"{size.samples:,}", "unknown" if tokens is None else f"{tokens:,}"),
                *(f"{len(opened.readers):,}", in_bytes(opened.raw_bytes)),
            )
        )
    return aligned(rows, left={0})


def run_lines(steps: Steps, resumes_from: str | None) -> list[str]:
    """What the run makes of the streams: their order, the rows of a step, where it begins and ends.

    Args:
        steps: The steps of the run.
        resumes_from: The checkpoint that the run resumes from; None for a new run.
    """
    loader, order = steps.loader, steps.loader.order
    kind = f"{order.shuffle_algo}, seed {order.shuffle_seed}" if order.shuffle else "not shuffled"
    here = loader.describe(loader.samples_seen)
    begins = (
        f"resumes from {resumes_from}, step {steps.done}, at {here}"
        if resumes_from
        else f"begins at {here}"
    )
    if steps.packing and loader.samples_skipped:
        begins += f" ({loader.samples_skipped:,} documents skipped)"
    if loader.stage is not None:
        begins += f", in {loader.stage}"
    end = f"{steps.total:,} steps end at "
    end += loader.describe(steps.position_of(max(steps.total, steps.done) + 1))
    if loader.stage is None:
        end += f", after {'about ' if steps.packing else ''}{steps.epochs:.2f} epochs"
    return [
        f"order: {kind}; {order.batching_method} batches; {order.num_canonical_nodes} canonical "
        f"node(s); {loader.epoch_samples:,} {'documents' if steps.packing else 'samples'} "
        f"{'an epoch' if loader.stage is None else 'in all streams'}",
        f"step:  {steps.rows:,} rows = {loader.dp_world_size} data-parallel rank(s) * "
        f"{loader.batch_size} rows * {steps.micro_batches} micro-batch(es), of "
        f"{loader.dataset.seq_len:,} tokens",
        f"run:   {begins}; {end}",
    ]


def run_facts(steps: Steps) -> list[str]:
    """What a run trains on, in parts of a sentence: samples, streams, where it resumes, its rows.

    Args:
        steps: The steps of the run.
    """
    dataset = steps.loader.dataset
    samples, streams = steps.loader.mixture.epoch_samples, len(dataset.streams)
    left = max(0, steps.total - steps.done)
    rows = left * steps.rows
    if steps.done:
        subject = f"{left:,} of {steps.total:,} steps are left and train on"
    else:
        subject = f"{left:,} steps train on" if left != 1 else "1 step trains on"
    stages = steps.loader.run.source.order.stages
    # A packed row holds many samples, or a part of one.
    if dataset.packing or stages is not None:
        amount = f"{rows:,} rows"
    elif rows <= samples:
        amount = f"{rows:,} of them, {rows / samples:.3g} epochs"
    else:
        amount = f"each {rows / samples:.3g} times"
    what = "samples per epoch" if stages is None else "samples"
    count = "" if stages is None else f" in {_number(len(stages.stages), 'stage')}"
    return [
        f"{samples:,} {what} from {_number(streams, 'stream')}{count}",
        *([f"resumes at {steps.loader.describe(steps.loader.samples_seen)}"] if steps.done else []),
        f"{subject} {amount}",
    ]


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def in_bytes(count: float) -> str:
    """A number of bytes in words."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int]) -> str:
    """Rows of cells in columns; those in `left` begin at the same place, the others end there."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
