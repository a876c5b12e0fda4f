"""What a machine will fetch and what its cache must hold, looked up in the order before the run."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.inspect.tables import in_bytes
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.reading.document_length import mean_tokens
from mosaic_dataloader.sources.common import samples_ahead
from mosaic_dataloader.util.arguments import number, parse_bytes

# Steps, and samples, that are looked up at the most: some seconds of work.
_MOST_STEPS, _MOST_SAMPLES = 1 << 15, 1 << 22
# The steps are put together to so many stretches, to which it is known when a shard is used.
_STRETCHES = 512


@dataclass(frozen=True)
class Forecast:
    """What the first machine fetches and caches from the present step on.

    Attributes:
        steps: Steps that were looked up.
        left: Steps that the run has left; if these are more, the forecast is for its beginning.
        needed: int64[steps], bytes that must have been fetched for a step and those before it, if
            no shard is fetched twice.
        shards: int64[steps], the shards that these are.
        cache: Bytes that the cache must hold so that none of them is fetched twice: the least
            `cache_limit` that does.
    """

    steps: int
    left: int
    needed: Int64Array
    shards: Int64Array
    cache: int

    @property
    def per_step(self) -> float:
        """Bytes that a step fetches on average.

        Of a beginning, the second half counts: first the cache fills.
        """
        skipped = self.steps // 2 if self.steps < self.left else 0
        before = int(self.needed[skipped - 1]) if skipped else 0
        return (int(self.needed[-1]) - before) / (self.steps - skipped)

    def waits(self, bandwidth: float, step_time: float) -> tuple[float, float]:
        """Seconds that training waits before the first step, and in all these steps together.

        Args:
            bandwidth: Bytes a second that arrive at the machine.
            step_time: Seconds of a step that waits for nothing.
        """
        arrived = self.needed / bandwidth
        late = arrived - step_time * np.arange(self.steps)
        return float(arrived[0]), float(late.max())


def forecast(steps: Steps, *, everything: bool = False) -> Forecast | None:
    """Look up what the first machine reads in the steps to come.

    Every other machine reads about as much: the same number of samples, of other shards. With
    packing it is an estimate, as if all documents were of mean length.

    Args:
        steps: The steps of the run; its loader says how many machines there are.
        everything: Count all streams, also those that are read in place.

    Returns:
        None where nothing is fetched, or no step is left.

    Raises:
        MosaicDataError: The order cannot be built.
    """
    loader = steps.loader
    dataset = loader.dataset
    left = max(0, steps.total - steps.done)
    counted = [stream for stream in dataset.streams if everything or stream.fetched]
    if not counted or not left:
        return None
    # By shard over all streams: its bytes in the store, and in the cache.
    stored, cached = [], []
    for stream in dataset.streams:
        counts = everything or stream.fetched
        kept = stream.stream.safe_keep_zip
        for reader in stream.readers:
            size = sum(int((zipped or raw).bytes) for raw, zipped in reader.file_pairs)
            here = int(reader.get_max_size() if kept else reader.get_raw_size())
            stored.append(size if counts else 0)
            cached.append(here if counts else 0)
    sizes = np.array(stored, np.int64)
    samples = float(steps.rows)
    if steps.packing:
        samples *= max(1.0, dataset.seq_len / mean_tokens(dataset.streams, loader.mixture))
    looked = max(1, min(left, _MOST_STEPS, int(_MOST_SAMPLES / samples)))
    stretch = -(-looked // _STRETCHES)
    needed, shards = np.zeros(looked, np.int64), np.zeros(looked, np.int64)
    seen = sizes == 0
    uses: list[Int64Array] = []
    within: list[Int64Array] = []
    for step, used in enumerate(_shards_of_steps(steps, looked)):
        new = used[~seen[used]]
        seen[new] = True
        needed[step], shards[step] = sizes[new].sum(), len(new)
        within.append(used)
        if len(within) == stretch or step == looked - 1:
            uses.append(np.unique(np.concatenate(within)))
            within.clear()
    # Shards are asked for so many steps before they are read.
    per_step = loader.batch_size * steps.micro_batches
    ahead = -(-samples_ahead(dataset, loader.batch_size) // (per_step * stretch))
    held = _most_held(uses, np.array(cached, np.int64), ahead)
    # The indexes count, and so does a shard that is on its way, packed and unpacked. Less than four
    # of the largest are refused as a limit.
    indexes = sum(os.path.getsize(os.path.join(s.directory, "index.json")) for s in counted)
    largest = max(int(r.get_max_size()) for s in counted for r in s.readers)
    return Forecast(
        steps=looked,
        left=left,
        needed=np.cumsum(needed),
        shards=np.cumsum(shards),
        cache=indexes + max(held + largest, 4 * largest),
    )


def _shards_of_steps(steps: Steps, count: int) -> Iterator[Int64Array]:
    """The shards that the first machine reads in each of the next steps, each once."""
    loader = steps.loader
    source = loader.run.source
    source.check(None)
    ranks = range(max(1, loader.dp_world_size // loader.num_nodes))
    position, micro = steps.position_of(steps.done + 1), steps.micro_batches
    batches = source.reads(position, count * micro, ranks)
    for _ in range(count):
        ids = np.concatenate([next(batches) for _ in range(micro)])
        yield np.unique(source.mixture.locate(ids)[0])


def _most_held(uses: Sequence[Int64Array], sizes: Int64Array, ahead: int) -> int:
    """Bytes that a cache must hold so that what is used again is still there.

    The cache removes what was used least recently. So a shard is there as long as the cache holds
    all that was used since, and what is fetched ahead.

    Args:
        uses: The shards used in each stretch of steps.
        sizes: int64[shards], bytes of each in the cache.
        ahead: Stretches for which shards are fetched ahead.
    """
    most = 0
    # The stretch in which each shard was used last, counted from 1; 0 for never.
    last = np.zeros(len(sizes), np.int64)
    for now, used in enumerate(uses, 1):
        coming = np.unique(np.concatenate(uses[now - 1 : now + ahead]))
        # By stretch: bytes last used in it or later, and coming bytes that were last used earlier.
        since = np.bincount(last, sizes, minlength=now)[::-1].cumsum()[::-1]
        own = np.bincount(last[coming], sizes[coming], minlength=now).cumsum()
        beside = np.concatenate([[0.0], own[:-1]])
        again = np.unique(last[coming])
        again = again[again > 0]
        held = (since + beside)[again].max(initial=own[-1])
        most = max(most, int(held))
        last[used] = now
    return most


def forecast_lines(
    steps: Steps,
    *,
    step_time: float | None = None,
    bandwidth: int | str | None = None,
    everything: bool = False,
) -> list[str]:
    """What a machine fetches, what its cache must hold, and what a cold start costs, in words.

    Args:
        steps: The steps of the run.
        step_time: Seconds of a step; None to give no times that depend on it.
        bandwidth: Bytes a second that arrive at a machine, as a number or like ``"500mb"``; None
            likewise.
        everything: See `forecast`.

    Raises:
        MosaicDataError: A number cannot be, or the order cannot be built.
    """
    if step_time is not None:
        step_time = number("step_time", step_time, above=0)
    rate = None if bandwidth is None else parse_bytes("bandwidth", bandwidth)
    found = forecast(steps, everything=everything)
    if found is None:
        return ["fetch: nothing: the data is read in place, or no step is left"]
    loader = steps.loader
    machines = loader.num_nodes
    who = "the machine" if machines == 1 else f"each of {machines} machines"
    about = "about " if steps.packing else ""
    whole = found.steps >= found.left
    span = f"{found.steps:,} steps" if whole else f"first {found.steps:,} of {found.left:,} steps"
    fetch = (
        f"fetch: {about}{in_bytes(found.per_step)} a step by {who}; {about}{found.shards[-1]:,} "
        f"shards, {in_bytes(int(found.needed[-1]))}, in the {span}"
    )
    if step_time is not None:
        fetch += (
            f"; {in_bytes(found.per_step / step_time * 3600)} an hour at {step_time:g} s a step"
        )
    limit = loader.dataset.cache_limit
    cache = f"cache: {about}{in_bytes(found.cache)} on {who}, so that no shard is fetched twice"
    if limit is not None:
        cache += f"; cache_limit is {in_bytes(limit)}" + (
            ", too little: shards will be fetched again" if limit < found.cache else ""
        )
    start = (
        f"start: {about}{found.shards[0]:,} shards, {in_bytes(int(found.needed[0]))}, for the "
        "first step"
    )
    if rate is not None:
        first, waits = found.waits(rate, step_time or 0.0)
        start += f", in {first:,.1f} s at {in_bytes(rate)}/s"
        if step_time is not None:
            start += f"; with an empty cache the {span} wait {waits:,.1f} s for data"
    return [fetch, cache, start]
