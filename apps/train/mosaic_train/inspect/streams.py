"""The streams and the run, as tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mosaic_train.inspect.start import Start

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

_HEADER = (
    "stream",
    "samples",
    "tokens",
    "shards",
    "size",
    "weight",
    "per epoch",
    "share",
    "times in the run",
)


def stream_table(config: "MosaicJobConfig", start: Start) -> str:
    """One line for each stream: what it holds, and what an epoch and the whole run take of it."""
    from mosaic_dataloader.reading.manifest import prepared_tokens

    dataset = start.loader.dataset
    epochs = run_epochs(config, start)
    whole = sum(size.choose for size in dataset.mixture.streams)
    rows = [_HEADER]
    for opened, size in zip(dataset.streams, dataset.mixture.streams, strict=True):
        tokens = prepared_tokens(opened)
        rows.append(
            (
                opened.name,
                f"{size.samples:,}",
                "unknown" if tokens is None else f"{tokens:,}",
                f"{len(opened.readers):,}",
                _bytes(sum(raw.bytes for r in opened.readers for raw, _ in r.file_pairs)),
                _weight(config, opened.name),
                f"{size.choose:,}",
                f"{size.choose / whole:.1%}",
                f"{epochs * size.choose / size.samples:.2f}",
            )
        )
    return _aligned(rows)


def run_lines(config: "MosaicJobConfig", start: Start, dp_world_size: int) -> list[str]:
    """What the run will make of them."""
    loader, order = start.loader, start.loader.order
    local = config.training.local_batch_size
    micro = start.step_samples // (local * dp_world_size)
    kind = f"{order.shuffle_algo}, seed {order.shuffle_seed}" if order.shuffle else "not shuffled"
    here = start.place(loader.samples_seen)
    begins = (
        f"goes on from {start.checkpoint}, step {start.steps_done}, at {here}"
        if start.checkpoint
        else f"begins at {here}"
    )
    if start.packing and loader.samples_skipped:
        begins += f" ({loader.samples_skipped:,} documents skipped)"
    end = start.position_of(max(config.training.steps, start.steps_done) + 1)
    return [
        f"order: {kind}; {order.batching_method} batches; {order.num_canonical_nodes} canonical "
        f"node(s); {loader.epoch_samples:,} {'documents' if start.packing else 'samples'} an epoch",
        f"step:  {start.step_samples:,} rows = {dp_world_size} data-parallel rank(s) * {local} "
        f"rows * {micro} micro-batch(es), of {config.training.seq_len:,} tokens",
        f"run:   {begins}; {config.training.steps:,} steps end at {start.place(end)}, after "
        f"{'about ' if start.packing else ''}{run_epochs(config, start):.2f} epochs",
    ]


def run_epochs(config: "MosaicJobConfig", start: Start) -> float:
    """Epochs that all steps together make, those before the checkpoint too.

    With packing by the sizes in the indexes, about.
    """
    steps = max(config.training.steps, start.steps_done)
    end = start.position_of(steps + 1)
    if start.packing:
        from mosaic_dataloader.reading.document_length import rows_of_epoch

        dataset = start.loader.dataset
        return end / rows_of_epoch(dataset.streams, dataset.mixture, dataset.seq_len)
    return float((end - start.loader.samples_skipped) / start.loader.epoch_samples)


def _weight(config: "MosaicJobConfig", name: str) -> str:
    options = config.mosaic_dataloader.dataset.streams.get(name)
    for kind in ("proportion", "repeat", "choose"):
        value = getattr(options, kind, None)
        if value is not None:
            return f"{kind} {value:g}" if kind != "choose" else f"choose {value:,}"
    return "all of it"


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, _HEADER.index("weight")}
    lines = []
    for row in rows:
        cells: list[Any] = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
