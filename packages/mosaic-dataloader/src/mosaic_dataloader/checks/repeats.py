"""How often does the planned run see each stream?"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.skip import trained_draws
from mosaic_dataloader.reading.document_length import tokens_per_stream
from mosaic_dataloader.state.stages import stage_tokens

# More often than this is worth a word where nobody said how often is intended.
_MANY = 4.0


def too_many_repeats(
    loader: MosaicParallelAwareDataloader,
    *,
    steps: int,
    step_rows: int,
    names: OptionNames = PYTHON,
) -> list[str]:
    """A mistake: a stream would be seen more often in the run than its ``max_repeats``.

    Counted on the order itself, up to the end of the run; what the run has seen before counts, and
    what ``skip`` leaves out does not. With packing the documents that are still to come are an
    estimate, since how many fill a row is known only when they are read.

    Args:
        loader: The loader of any rank, at the position where training starts or resumes.
        steps: Steps that are left to train.
        step_rows: Rows of a step, over all ranks and micro-batches.
        names: What the caller's options are called.

    Returns:
        One line for each such stream; none where no stream has a limit.

    Raises:
        MosaicDataError: The order cannot be built.
    """
    limits = {name: own for name, own in loader.dataset.max_repeats.items() if own is not None}
    return [
        f"{seen}, and may be seen {limits[name]:g} times: give it less weight or more data, train "
        f"for fewer steps, or raise {names.dataset}max_repeats or the stream's own"
        for name, seen in _seen_more_often(loader, steps * step_rows, limits)
    ]


def many_repeats(
    loader: MosaicParallelAwareDataloader,
    *,
    steps: int,
    step_rows: int,
    names: OptionNames = PYTHON,
) -> list[str]:
    """A cost: a stream without a ``max_repeats`` is seen more than four times in the run.

    Args:
        loader: As for `too_many_repeats`, and so are the others.
        steps: Steps that are left to train.
        step_rows: Rows of a step.
        names: What the caller's options are called.

    Returns:
        One line for each such stream.

    Raises:
        MosaicDataError: The order cannot be built.
    """
    unlimited = [name for name, own in loader.dataset.max_repeats.items() if own is None]
    return [
        f"{seen}: each time teaches less than the one before; give it less weight or more data, or "
        f"set {names.dataset}max_repeats to what is intended"
        for _, seen in _seen_more_often(loader, steps * step_rows, dict.fromkeys(unlimited, _MANY))
    ]


def _seen_more_often(
    loader: MosaicParallelAwareDataloader, rows: int, limits: Mapping[str, float]
) -> Iterator[tuple[str, str]]:
    """The streams that the run sees more often than their limits: the name, and how often.

    Args:
        loader: The loader.
        rows: Rows that are left to train.
        limits: How often a stream may be seen, by its name.
    """
    sizes = {size.name: size for size in loader.mixture.streams}
    # Where each epoch picks the same samples, the others are never seen.
    same = loader.dataset.stage_config is None and not loader.order.seed_changes_with_epoch
    picked = {
        name: max(1, min(size.samples, size.choose)) if same else size.samples
        for name, size in sizes.items()
    }
    if rows < 1 or not any(
        most > limits[name] * picked[name]
        for name, most in zip(sizes, _most_drawn(loader, rows), strict=True)
        if name in limits
    ):
        return
    about, what = ("about ", "document") if loader.dataset.packing else ("", "sample")
    for name, count in zip(sizes, _drawn(loader, rows).tolist(), strict=True):
        if name in limits and count > limits[name] * picked[name]:
            yield (
                name,
                f'stream "{name}" is seen {about}{count / picked[name]:.3g} times by the end of '
                f"the run ({about}{count:,} draws from {picked[name]:,} {what}s)",
            )


def _most_drawn(loader: MosaicParallelAwareDataloader, rows: int) -> list[float]:
    """A bound of `_drawn` for each stream that takes no order to be built, where there is one."""
    source, progress = loader.run.source, loader.run.progress
    if source.order.stages is not None or loader.dataset.packing:
        return [math.inf] * len(source.mixture.streams)
    end = source.order.skip.after(progress.samples_seen, rows)
    begun = source.sequence.locate(progress.samples_seen)[0]
    epochs = source.sequence.locate(end)[0] + 1 - begun
    chosen = [size.choose for size in source.mixture.streams]
    return [
        float(seen + epochs * most)
        for seen, most in zip(source.samples(progress).tolist(), chosen, strict=True)
    ]


def _drawn(loader: MosaicParallelAwareDataloader, rows: int) -> Int64Array:
    """Samples of each stream, int64[streams], that the run has drawn when it ends."""
    source, progress = loader.run.source, loader.run.progress
    stages = source.order.stages
    before = source.samples(progress)
    if not loader.dataset.packing:
        skip, position = source.order.skip, progress.samples_seen
        end = skip.after(position, rows)
        drawn = trained_draws(source.sequence, skip, position, end)
        return before + (drawn if stages is None else drawn[list(stages.present)])
    begin = round((source.epochs(progress)[1] - source.order.start.epoch) * loader.epoch_samples)
    tokens = rows * loader.dataset.seq_len
    if stages is not None:
        positions, before_them = stage_tokens(stages)
        reached = np.interp(begin, positions, before_them) + tokens
        end = round(float(np.interp(reached, before_them, positions)))
        drawn = source.sequence.draws(begin, end)[list(stages.present)]
    else:
        per_epoch = sum(tokens_per_stream(loader.dataset.streams, loader.mixture))
        documents = round(tokens / per_epoch * loader.epoch_samples)
        drawn = source.sequence.draws(begin, begin + documents)
    # The lanes of the other ranks have read as much, about.
    return before * loader.dp_world_size + drawn
