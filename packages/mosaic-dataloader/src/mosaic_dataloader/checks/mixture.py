"""Does a run see its streams in the shares that their weights ask for?"""

import numpy as np

from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.reading.document_length import mean_tokens

# A tenth of a weight; below this many standard deviations of a random draw it is chance.
_OFF, _DEVIATIONS = 0.1, 4.0
_FIRST_STEPS = 1000
# Longer epochs than the first one take too long to be ordered for this check alone.
_LONG = 1 << 22


def mixture_shares(
    loader: MosaicParallelAwareDataloader,
    *,
    steps: int,
    step_rows: int,
    names: OptionNames = PYTHON,
) -> list[str]:
    """A cost: a new run sees a stream in another share than its weight asks for.

    An epoch holds each stream as often as its weight says, but not every part of it does: where a
    stream is one large shard, and another is small and repeated, one may come only after the other.

    Args:
        loader: The loader of any rank, of a run that does not resume another.
        steps: Steps of the run.
        step_rows: Rows of a step, over all ranks and micro-batches.
        names: What the caller's options are called.

    Returns:
        One line for the stream and the stretch that are furthest off, if a share differs by more
        than a tenth from its weight.

    Raises:
        MosaicDataError: The order cannot be built.
    """
    mixture = loader.mixture
    # Blocks of stages hold exactly what the weights ask for.
    if len(mixture.streams) < 2 or steps < 1 or loader.dataset.stage_config is not None:
        return []
    weights = np.array([size.choose for size in mixture.streams]) / mixture.epoch_samples
    packing = loader.dataset.packing
    # A packed row counts as so many documents.
    per_row = (
        loader.dataset.seq_len / max(1.0, mean_tokens(loader.dataset.streams, mixture))
        if packing
        else 1.0
    )
    worst, line = 0.0, ""
    for taken in sorted({min(steps, _FIRST_STEPS), steps}):
        samples = max(1, round(taken * step_rows * per_row))
        if taken > _FIRST_STEPS and loader.epoch_samples > _LONG:
            continue
        counts = _counts(loader, samples)
        chance = _DEVIATIONS * np.sqrt(samples * weights * (1 - weights))
        off = np.abs(counts - samples * weights)
        off[off < np.maximum(_OFF * samples * weights, chance)] = 0
        ratios = np.divide(off, samples * weights, out=np.zeros_like(weights), where=weights > 0)
        number = int(ratios.argmax())
        if ratios[number] <= worst:
            continue
        worst = float(ratios[number])
        stretch = f"the {taken:,} steps" if taken == steps else f"the first {taken:,} steps"
        what = "documents" if packing else "rows"
        line = (
            f'stream "{mixture.streams[number].name}" is to give {weights[number]:.0%} of the '
            f"{what}, and gives {counts[number] / samples:.0%} of the {samples:,} of {stretch}: "
            f"{_remedy(loader, names)}"
        )
    return [line] if line else []


def _counts(loader: MosaicParallelAwareDataloader, samples: int) -> Int64Array:
    """int64[streams], samples of each stream from the order's beginning on."""
    begin = loader.samples_skipped
    return loader.run.source.sequence.draws(begin, begin + samples)


def _remedy(loader: MosaicParallelAwareDataloader, names: OptionNames) -> str:
    order = loader.order
    if order.batching_method != "random":
        return f'set {names.dataset}batching_method = "random" or "stratified"'
    if not order.shuffle:
        return f"without a shuffle streams follow one another; set {names.dataset}shuffle = true"
    if order.shuffle_algo in ("py1e", "py1s", "py2s"):
        return (
            f'"{order.shuffle_algo}" mixes shards, here few or of unequal sizes, and not streams; '
            f'set {names.dataset}shuffle_algo = "py1br" or "feistel"'
        )
    return f"raise {names.dataset}shuffle_block_size, which is {order.shuffle_block_size:,}"
