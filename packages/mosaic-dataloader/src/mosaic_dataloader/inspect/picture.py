"""The picture: how long rows are, and what the batches are mixed of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError

# Bars that can be distinguished; beyond that, each is a thin line.
_BATCHES = 100


class PicturedPart(NamedTuple):
    """A part of the run with one mixture: the shares that the streams are to have, by name.

    Its last step may be the first one of the next part as well.
    """

    first: int
    last: int
    shares: Mapping[str, float]


def save_run(
    path: Path,
    *,
    lengths: Mapping[str, Sequence[int]],
    shares: Any,
    parts: Sequence[PicturedPart],
    seq_len: int,
    first_step: int,
    packed_rows: int = 0,
) -> None:
    """Draw row lengths and the streams' shares, of the whole run and of some steps; save as PNG.

    Args:
        path: The file; its folder is made.
        lengths: Tokens of the rows that were read, by stream; names in the streams' order. If rows
            are packed, of the documents in them.
        shares: float[steps, streams], the streams' shares of each step.
        parts: The parts of the whole run, one after another.
        seq_len: Tokens of a full row.
        first_step: The step of the first line of ``shares``.
        packed_rows: How many rows the documents are packed in; 0 where each is a row.

    Raises:
        MosaicDataError: matplotlib is missing, or the file cannot be written.
    """
    figure = _figure(12, 6.4)
    axes = figure.subplot_mosaic(
        [["lengths", "run"], ["lengths", "steps"]], width_ratios=(1, 1.6), height_ratios=(1, 2)
    )
    left, right = axes["lengths"], axes["steps"]
    colors = _colors(len(lengths))
    _draw_lengths(left, lengths, colors)
    tokens = [length for own in lengths.values() for length in own]
    mean = sum(tokens) / len(tokens)
    if packed_rows:
        left.set_title(
            f"tokens in a document: {len(tokens):,} documents,\n"
            f"{mean:,.0f} on average, in {packed_rows:,} full rows",
            fontsize=10,
        )
        left.set_xlabel(f"tokens (dashed: a row, seq_len = {seq_len:,})")
        left.set_ylabel("share of the stream's documents with at most so many")
        left.axvline(seq_len, color="black", linewidth=1, linestyle="--")
        left.set_xlim(0, 1.03 * max(seq_len, *tokens))
    else:
        full = sum(length == seq_len for length in tokens)
        left.set_title(
            f"tokens in a row: {len(tokens)} rows, {full / len(tokens):.0%} of them full, "
            f"{1 - mean / seq_len:.1%} padding",
            fontsize=10,
        )
        left.set_xlabel(f"tokens (seq_len = {seq_len:,})")
        left.set_ylabel("share of the stream's rows with at most so many")
        # Room for the line that stands where rows are full.
        left.set_xlim(0, 1.03 * seq_len)
    _draw_parts(axes["run"], list(lengths), parts, colors)
    axes["run"].axvspan(first_step - 0.5, first_step + len(shares) - 0.5, color="black", alpha=0.2)
    _draw_shares(right, list(lengths), shares, parts, first_step, colors)
    if packed_rows:
        right.set_ylabel("share of the global batch's targets")
    _save(figure, path)


def save_lengths(path: Path, lengths: Mapping[str, Sequence[int]]) -> None:
    """Draw how long the samples of each stream are, in tokens, and save it as PNG.

    Raises:
        MosaicDataError: matplotlib is missing, or the file cannot be written.
    """
    figure = _figure(8, 4.8)
    axes = figure.subplots()
    _draw_lengths(axes, lengths, _colors(len(lengths)), labelled=True)
    axes.set_title("tokens in a sample", fontsize=10)
    axes.set_xlabel("tokens")
    axes.set_ylabel("share of the stream's samples with at most so many")
    axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=min(3, len(lengths)), fontsize=9)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MosaicDataError(
            f"the picture needs matplotlib, which cannot be imported ({error}): install "
            f"mosaic-dataloader[inspect]"
        ) from error
    # No pyplot: it would look for a display.
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise MosaicDataError(
            f"cannot write the picture {path} ({error.strerror}): choose another folder"
        ) from error


def _colors(count: int) -> list[Any]:
    from matplotlib import colormaps

    table = colormaps["tab10" if count <= 10 else "tab20"]
    return [table(number % table.N) for number in range(count)]


def _draw_lengths(
    axes: Any,
    lengths: Mapping[str, Sequence[int]],
    colors: list[Any],
    *,
    labelled: bool = False,
) -> None:
    # Not a histogram: full rows are often most of all, and would leave nothing of the others.
    for (name, own), color in zip(lengths.items(), colors, strict=True):
        if own:
            axes.ecdf(own, color=color, linewidth=2, label=name if labelled else None)
    axes.set_ylim(0, 1.03)
    axes.grid(alpha=0.3)


def _stack(
    axes: Any, lefts: Any, widths: Any, shares: Any, colors: list[Any], labels: Sequence[str | None]
) -> None:
    """Draw bars, float[streams, n] high, each stream's on those of the streams before it."""
    below = np.zeros(len(lefts))
    for own, color, label in zip(shares, colors, labels, strict=True):
        axes.bar(lefts, own, widths, below, align="edge", color=color, label=label)
        below = below + own


def _draw_parts(
    axes: Any, names: list[str], parts: Sequence[PicturedPart], colors: list[Any]
) -> None:
    """The streams' shares over the whole run; a line where a stage begins."""
    lefts = np.array([part.first for part in parts]) - 0.5
    ends = [*lefts[1:], *(part.last + 0.5 for part in parts[-1:])]
    shares = [[part.shares.get(name, 0.0) for part in parts] for name in names]
    _stack(axes, lefts, ends - lefts, shares, colors, [None] * len(names))
    for left in lefts[1:]:
        axes.axvline(left, color="black", linewidth=1.5)
    axes.set_title("streams over the whole run (lines: a stage begins; gray: below)", fontsize=10)
    axes.set_ylabel("share")
    if parts:
        axes.set_xlim(parts[0].first - 0.5, parts[-1].last + 0.5)
    axes.set_ylim(0, 1)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_shares(
    axes: Any,
    names: list[str],
    shares: Any,
    parts: Sequence[PicturedPart],
    first_step: int,
    colors: list[Any],
) -> None:
    """The streams' shares of each of some steps, and those that their weights ask for."""
    steps = [first_step + number for number in range(len(shares))]
    present = [part for part in parts if part.first <= steps[-1] and part.last >= steps[0]]
    labels = []
    for name, own in zip(names, shares.T, strict=True):
        asked = ", ".join(f"{part.shares.get(name, 0.0):.1%}" for part in present)
        # No weight is asked of steps after the end of the run.
        labels.append(f"{name}: {own.mean():.1%}" + (f" ({asked} by weight)" if asked else ""))
    width = 1.0 if len(steps) > _BATCHES // 2 else 0.9
    _stack(axes, np.array(steps) - width / 2, width, shares.T, colors, labels)
    for part in present:
        border, first, last = 0.0, max(part.first, steps[0]), min(part.last, steps[-1])
        for name in names[:-1]:
            border += part.shares.get(name, 0.0)
            axes.hlines(border, first - 0.5, last + 0.5, "black", "dashed", linewidth=1)
    axes.set_title("streams in each step (dashed: by weight)", fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel("share of the global batch")
    axes.set_xlim(steps[0] - 0.5, steps[-1] + 0.5)
    axes.set_ylim(0, 1)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.figure.legend(loc="outside lower center", ncols=min(3, len(names)), fontsize=9)
