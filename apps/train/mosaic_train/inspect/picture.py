"""The picture: how long rows are, and what the batches are mixed of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mosaic_train.errors import TrainError

# Bars that are told apart; beyond that, each is a thin line.
_BATCHES = 100


def save_picture(
    path: Path,
    *,
    lengths: Mapping[str, Sequence[int]],
    shares: Any,
    configured: Sequence[float],
    seq_len: int,
    first_step: int,
    packed_rows: int = 0,
) -> None:
    """Draw row lengths and the streams' shares of global batches, and save them as PNG.

    Args:
        path: The file; its folder is made.
        lengths: Tokens of the rows that were read, by stream; names in the streams' order. If rows
            are packed, of the documents in them.
        shares: float[steps, streams], the streams' shares of each step.
        configured: Their shares of an epoch.
        seq_len: Tokens of a full row.
        first_step: The step of the first line of ``shares``.
        packed_rows: How many rows the documents are packed in; 0 where each is a row.

    Raises:
        TrainError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrainError(
            f"--inspect-data draws its picture with matplotlib, which cannot be imported "
            f"({error}): install matplotlib"
        ) from error

    # No pyplot: it would look for a display.
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    colors = _colors(len(configured))
    _draw_lengths(left, lengths, seq_len, colors, packed_rows)
    _draw_shares(right, list(lengths), shares, configured, first_step, colors)
    if packed_rows:
        right.set_ylabel("share of the global batch's targets")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise TrainError(
            f"cannot write {path} ({error.strerror}): choose another job.dump_folder"
        ) from error


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    table = colormaps["tab10" if count <= 10 else "tab20"]
    return [table(number % table.N) for number in range(count)]


def _draw_lengths(
    axes: Any,
    lengths: Mapping[str, Sequence[int]],
    seq_len: int,
    colors: list[Any],
    packed_rows: int,
) -> None:
    # Not a histogram: full rows are often most of all, and would leave nothing of the others.
    for own, color in zip(lengths.values(), colors, strict=True):
        if own:
            axes.ecdf(own, color=color, linewidth=2)
    rows = [length for own in lengths.values() for length in own]
    full = sum(length == seq_len for length in rows)
    mean = sum(rows) / len(rows)
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.3)
    if packed_rows:
        axes.set_title(
            f"tokens in a document: {len(rows):,} documents, {mean:,.0f} on average, in "
            f"{packed_rows:,} full rows",
            fontsize=10,
        )
        axes.set_xlabel(f"tokens (dashed: a row, training.seq_len = {seq_len:,})")
        axes.set_ylabel("share of the stream's documents with at most so many")
        axes.axvline(seq_len, color="black", linewidth=1, linestyle="--")
        axes.set_xlim(0, 1.03 * max(seq_len, *rows))
        return
    axes.set_title(
        f"tokens in a row: {len(rows)} rows, {full / len(rows):.0%} of them full, "
        f"{1 - mean / seq_len:.1%} padding",
        fontsize=10,
    )
    axes.set_xlabel(f"tokens (training.seq_len = {seq_len:,})")
    axes.set_ylabel("share of the stream's rows with at most so many")
    # Room for the line that stands where rows are full.
    axes.set_xlim(0, 1.03 * seq_len)


def _draw_shares(
    axes: Any,
    names: list[str],
    shares: Any,
    configured: Sequence[float],
    first_step: int,
    colors: list[Any],
) -> None:
    steps = [first_step + number for number in range(len(shares))]
    below = [0.0] * len(steps)
    for number, name in enumerate(names):
        own = [float(share) for share in shares[:, number]]
        mean = sum(own) / len(own)
        axes.bar(
            steps,
            own,
            bottom=below,
            width=1.0 if len(steps) > _BATCHES // 2 else 0.9,
            color=colors[number],
            label=f"{name}: {mean:.1%} ({configured[number]:.1%} of an epoch)",
        )
        below = [low + share for low, share in zip(below, own, strict=True)]
    border = 0.0
    for share in configured[:-1]:
        border += share
        axes.axhline(border, color="black", linewidth=1, linestyle="--")
    axes.set_title("streams in each step (dashed: as in an epoch)", fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel("share of the global batch")
    axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    axes.set_ylim(0, 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.figure.legend(loc="outside lower center", ncols=min(3, len(names)), fontsize=9)
