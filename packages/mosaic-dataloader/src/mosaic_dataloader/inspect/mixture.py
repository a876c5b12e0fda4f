"""The mixture of a run as a tree: its stages, and what each draws from every stream."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.dataset import given_weights
from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.inspect.tables import aligned
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.skip import Skip, trained_draws
from mosaic_dataloader.state.stages import RunStages, weighed
from mosaic_dataloader.storage.streams import DataStream


@dataclass(frozen=True)
class Part:
    """A part of a run with one mixture: a stage, or all of its epochs.

    With packing, samples are documents, and their numbers are estimates.

    Attributes:
        name: How the tree calls it.
        start: Position of its first sample.
        stop: Position after its last one; None where its end is not known.
        streams: Names of the streams.
        weights: What was asked of each; empty where the part has no weights of its own.
        asked: int64[streams], in which proportion samples are to be drawn.
        drawn: int64[streams], samples that it draws from each; of a part without a stop, ``asked``.
        tokens: float[streams], tokens of a sample of each, about.
        seen: float[streams], how often the run has seen each by the end of the part.
    """

    name: str
    start: int
    stop: int | None
    streams: Sequence[str]
    weights: Sequence[str]
    asked: Int64Array
    drawn: Int64Array
    tokens: NDArray[np.float64]
    seen: NDArray[np.float64]


def shares(counts: Int64Array, tokens: NDArray[np.float64] | float = 1.0) -> Any:
    """The streams' shares of samples or, given the tokens of one of each, of tokens.

    Returns:
        float[streams]; 0 where nothing is drawn.
    """
    drawn = counts * tokens
    return drawn / max(drawn.sum(), 1e-9)


def mixture_parts(loader: MosaicParallelAwareDataloader, steps: Steps | None = None) -> list[Part]:
    """The parts of a run, from its beginning on.

    Without its steps the last stage has no end, and an order of epochs is shown by one of them.
    """
    stages = loader.run.source.order.stages
    if stages is not None:
        return list(_stages(loader, stages, None if steps is None else steps.end))
    mixture, begin = loader.mixture, loader.samples_skipped
    epochs = 1.0 if steps is None else steps.epochs
    chosen = np.array([size.choose for size in mixture.streams], np.float64)
    samples = np.array([size.samples for size in mixture.streams], np.float64)
    return [
        Part(
            name=f"epochs of {loader.epoch_samples:,} {loader.run.source.unit}s",
            start=begin,
            stop=begin + loader.epoch_samples if steps is None else steps.end,
            streams=[stream.name for stream in loader.dataset.streams],
            weights=[_weight(stream) for stream in loader.dataset.streams],
            asked=chosen.astype(np.int64),
            drawn=(epochs * chosen).round().astype(np.int64),
            tokens=np.array(loader.dataset.millitokens) / 1000,
            seen=epochs * chosen / samples,
        )
    ]


def _stages(
    loader: MosaicParallelAwareDataloader, run: RunStages, end: int | None
) -> Iterator[Part]:
    begin = loader.samples_skipped
    weights_in = loader.dataset.options.weights_in
    samples = np.array([stream.samples for stream in run.streams], np.float64)
    millitokens = [mean.millitokens for mean in run.means]
    for number, stage in enumerate(run.stages):
        start = max(begin, stage.start)
        ends = [one.start for one in run.stages[number + 1 : number + 2]]
        stop = min(ends if end is None else [*ends, end], default=None)
        asked, seen = np.array(stage.counts, np.int64), np.zeros(len(stage.counts))
        drawn = asked
        if stop is not None:
            if start < stop:
                seen = _draws(loader, begin, stop) / samples
            stop = max(start, stop)
            drawn = _draws(loader, start, stop)
        weights = weighed(stage.counts, millitokens, weights_in)
        yield Part(
            name=f"stage {number + 1} of {len(run.stages)}",
            start=start,
            stop=stop,
            streams=[stream.name for stream in run.streams],
            weights=[f"{weight:.4g}" for weight in weights],
            asked=asked,
            drawn=drawn,
            tokens=np.array(millitokens) / 1000,
            seen=seen,
        )


def _draws(loader: MosaicParallelAwareDataloader, start: int, stop: int) -> Int64Array:
    """Samples of each stream, int64[streams], between two positions, without those left out.

    Packed rows that are left out have their documents read nevertheless.
    """
    source = loader.run.source
    skip = Skip() if loader.dataset.packing else source.order.skip
    return trained_draws(source.sequence, skip, start, stop)


def mixture_tree(loader: MosaicParallelAwareDataloader, steps: Steps | None = None) -> list[str]:
    """The parts of a run, and below each what it draws from every stream, as lines.

    Args:
        loader: The loader of any rank, at the position where training starts or resumes.
        steps: The steps of the run; with them, each part has its first and its last step.
    """
    parts = mixture_parts(loader, steps)
    if steps is not None and len(parts) > 1:
        parts.append(_whole(parts))
    unit = f"{loader.run.source.unit}s"
    tables = [_table(part, unit) for part in parts]
    lines = iter(aligned([row for table in tables for row in table], left={0}).splitlines())
    tree = [f"mixture, weights in {loader.dataset.options.weights_in}:"]
    for number, (part, table) in enumerate(zip(parts, tables, strict=True), 1):
        corner, bar = ("└─ ", "   ") if number == len(parts) else ("├─ ", "│  ")
        tree.append(f"{corner}{part.name}: {_place(part, unit, steps)}")
        tree += [f"{bar}{next(lines)}" for _ in table]
    return tree


def _whole(parts: Sequence[Part]) -> Part:
    """All stages together; streams that a change in mid-run brought are in all of them."""
    last, drawn = parts[-1], np.sum([part.drawn for part in parts], axis=0)
    return Part(
        name="the whole run",
        start=parts[0].start,
        stop=max([p.stop or 0 for p in parts if p.drawn.any()], default=parts[0].start),
        streams=last.streams,
        weights=[""] * len(last.streams),
        asked=drawn,
        drawn=drawn,
        tokens=last.tokens,
        seen=np.max([part.seen for part in parts], axis=0),
    )


def _place(part: Part, unit: str, steps: Steps | None) -> str:
    """Which steps and samples a part has, in words."""
    if part.stop is None:
        return f"{unit} {part.start:,} and on"
    if part.start >= part.stop:
        if steps is not None and part.start >= steps.end:
            return f"begins at {unit[:-1]} {part.start:,}, after the end of the run"
        return "skipped"
    place = f"{unit} {part.start:,} to {part.stop - 1:,}"
    if steps is None:
        return place
    first, last = steps.step_at(part.start), steps.step_at(part.stop - 1)
    about = "about " if steps.packing else ""
    return f"{about}steps {first:,} to {last:,}, {place}"


def _table(part: Part, unit: str) -> list[Sequence[str]]:
    """A header and a line for each stream that a part draws from; empty where it draws nothing."""
    samples, tokens = shares(part.drawn), shares(part.drawn, part.tokens)
    rows: list[Sequence[str]] = [("stream", "weight", unit, "share", "tokens", "share", "seen")]
    for number in np.flatnonzero(part.drawn).tolist():
        counted = ("…", "…", "…")
        if part.stop is not None:
            drawn = int(part.drawn[number])
            counted = (
                f"{drawn:,}",
                f"{drawn * part.tokens[number]:,.0f}",
                f"{part.seen[number]:.2f} times",
            )
        rows.append(
            (
                *(part.streams[number], part.weights[number]),
                *(counted[0], f"{samples[number]:.1%}"),
                *(counted[1], f"{tokens[number]:.1%}", counted[2]),
            )
        )
    return rows if len(rows) > 1 else []


def _weight(stream: DataStream) -> str:
    for kind, value in given_weights(stream).items():
        return f"{kind} {value:g}" if kind != "choose" else f"choose {value:,}"
    return "all of it"
