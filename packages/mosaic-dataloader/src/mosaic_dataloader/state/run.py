"""A run: where its batches come from, how far it has come, and how it is saved and resumed."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array, Mixture, TokenMean
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.sequence import EpochStart
from mosaic_dataloader.order.skip import Range, Skip, skip_from
from mosaic_dataloader.order.stage_options import StageConfig
from mosaic_dataloader.order.stage_sequence import SampleSequence
from mosaic_dataloader.reading.origins import PreviewRow
from mosaic_dataloader.reading.workers import Fetch, ReadAhead
from mosaic_dataloader.state.identity import DataIdentity, Identity, compare, order_difference
from mosaic_dataloader.state.progress import Counters, Progress, SumOverRanks, TokenCount
from mosaic_dataloader.state.saved import KEY, SavedState
from mosaic_dataloader.state.stages import (
    Reached,
    RunStages,
    continued_stages,
    kept_means,
    with_present_data,
)

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Rows of one rank.

    Attributes:
        inputs: int64[B, T].
        labels: int64[B, T].
        ends: int64[K], where documents end (see `reading.positions`); None unless that was asked
            for.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    ends: Int64Array | None = None


@dataclass(frozen=True)
class RunOrder:
    """What a run keeps from its first start on: the order that its positions count in.

    Attributes:
        options: The order's options, resolved.
        start: Where the order begins.
        skipped: Samples of the order that the run left out at its start.
        lanes: Packing lanes; None where documents are not packed, or where the data set's options
            and the layout are to decide.
        stages: The mixture of a run with stages; None where the order is one of epochs.
        means: Tokens of a sample of each stream in the data, where proportions count tokens or
            there are stages; else none.
        skip: Positions that the run leaves out, and those that it has left out so far.
    """

    options: ResolvedOrder
    start: EpochStart = field(default_factory=EpochStart)
    skipped: int = 0
    lanes: int | None = None
    stages: RunStages | None = None
    means: tuple[TokenMean, ...] = ()
    skip: Skip = field(default_factory=Skip)


@dataclass(frozen=True)
class EpochPass:
    """A finite iteration, to the end of the epoch that it begins in.

    Attributes:
        drop_last: Leave out a last batch that is not full; otherwise it is padded.
        repeated: The same pass is all that is ever read: no other epoch follows it. It has at least
            one batch, if only of padding.
    """

    drop_last: bool
    repeated: bool = False


class BatchSource(Protocol):
    """Where one rank's batches come from: rows that are samples, or rows packed of documents.

    Nothing else asks which of them it is. A source knows the data, the rank and the order of a run;
    how far the run has come is handed in.

    Attributes:
        order: The order.
        sequence: The samples at its positions.
        mixture: The streams.
        identity: What identifies the data.
        length_known: Whether the rows of an epoch are known before they are read.
        counts_all_ranks: Whether ``samples`` counts those of all ranks.
        first_position: Where the run's position was before the first batch of the present order.
        open_options: Options that the user left open; a saved value stands for them.
        stage_config: What the user says of stages; None where the order is one of epochs.
        skip_option: Positions that the user wants left out.
        unit: What positions of the order count.
        token_mean: Tokens of a sample of a stream, by its number; samples may be read for it.
        weighed: The streams as an order of epochs weighs them by such means.
    """

    order: RunOrder
    sequence: SampleSequence
    mixture: Mixture
    identity: DataIdentity
    length_known: bool
    counts_all_ranks: bool
    first_position: int
    open_options: Collection[str]
    stage_config: StageConfig | None
    skip_option: Sequence[Range]
    unit: str
    token_mean: Callable[[int], TokenMean]
    weighed: Callable[[Sequence[TokenMean]], Mixture]

    def of_run(self, order: RunOrder) -> Self:
        """The source of another run of the same data and rank."""

    def check(self, extent: EpochPass | None) -> None:
        """Raise MosaicDataError unless the data suffice for the layout, as far as that is cheap."""

    def begin(self) -> Progress:
        """The progress of a run before its first batch."""

    def resume(self, saved: SavedState, state: Mapping[str, Any]) -> Progress:
        """The progress that was saved."""

    def follows(self, saved: SavedState, state: Mapping[str, Any], progress: Progress) -> bool:
        """Whether the order gives the samples that the saved run would have seen next."""

    def reached(self, saved: SavedState, state: Mapping[str, Any]) -> Reached | None:
        """How far the saved run has drawn from its order; None where that is not known."""

    def fetch(self, dataset: Any) -> Fetch:
        """What worker processes call to read what the source asks of them; can be pickled.

        Args:
            dataset: The data, opened for them.
        """

    def batches(
        self, progress: Progress, extent: EpochPass | None, ahead: ReadAhead
    ) -> Iterator[tuple[Batch, Progress]]:
        """Batches from a progress on, each with the progress that handing it out makes.

        Called in the main thread, where workers are started; the batches are made wherever the
        iterator is used.

        Args:
            progress: Where to begin.
            extent: Where to end; None for never.
            ahead: How far to read ahead, and in which processes.
        """

    def pass_ended(self, begun: Progress, last: Progress) -> Progress:
        """The progress once a finite pass that began at ``begun`` has ended after ``last``."""

    def rows(self, progress: Progress) -> int:
        """Rows that all ranks together were handed."""

    def samples(self, progress: Progress) -> Int64Array:
        """Samples handed out to their ends, int64[streams]; see ``counts_all_ranks``."""

    def position(self, progress: Progress) -> int:
        """Samples of the order drawn so far; with packing that of this rank's lanes, on average."""

    def epochs(self, progress: Progress) -> tuple[int, float]:
        """The epoch that the next sample belongs to, and the position in epochs."""

    def describe(self, position: int) -> str:
        """A position in words."""

    def epoch_rows(self) -> int:
        """Rows in an epoch; with packing about, by the sizes in the indexes."""

    def probe(self, progress: Progress) -> str | None:
        """Digest of the samples that come next; None where each lane has its own."""

    def save_lanes(self, progress: Progress) -> dict[str, str]:
        """The entries of a checkpoint that hold this rank's packing lanes, if there are any."""

    def preview(
        self, progress: Progress, position: int, report: Callable[[int, int], None] | None = None
    ) -> Generator[PreviewRow, None, None]:
        """Rows of all ranks from a position on, without end; ``progress`` stays where it is."""

    def reads(self, position: int, batches: int, ranks: Sequence[int]) -> Iterator[Int64Array]:
        """Sample ids, int64[n], that ranks read for each of the global batches from a position on.

        With packing about: as if all documents had the same length.
        """

    def stream_counts(self, progress: Progress, position: int, batches: int) -> Int64Array:
        """What each stream gives to the global batches from a position on, int64[batches, streams].

        Samples; with packing target tokens, since a row is of several streams.
        """


class RunState:
    """How far a run has come.

    One thread hands out batches, and replaces the progress with each, while others may save.

    Args:
        source: Where its batches come from.
        progress: How far it has come; its beginning by default.
        tokens: Target tokens of all ranks; none by default.

    Attributes:
        count: Replaces the progress with that of a batch that is handed out.
    """

    def __init__(
        self,
        source: BatchSource,
        progress: Progress | None = None,
        tokens: TokenCount | None = None,
    ):
        self.source = source
        self._progress = deque([progress or source.begin()], maxlen=1)
        # Without a frame of Python: a training step waits for it.
        self.count: Callable[[Progress], None] = self._progress.append
        none, position = np.zeros(len(source.mixture.streams), np.int64), self.progress.samples_seen
        self.tokens = tokens or TokenCount(none, position, none, position)

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        return self._progress[-1]

    def sync_token_counts(self, sum_over_ranks: SumOverRanks | None) -> None:
        """Add the target tokens counted since the last call; see `TokenCount.synced`."""
        self.tokens = self.tokens.synced(self.progress, sum_over_ranks)

    def counters(self, sum_over_ranks: SumOverRanks | None) -> Counters:
        """What the run has counted; see `MosaicParallelAwareDataloader.counters`."""
        source, progress = self.source, self.progress
        samples = source.samples(progress)
        if not source.counts_all_ranks and sum_over_ranks is not None:
            samples = sum_over_ranks(torch.from_numpy(samples)).cpu().numpy().astype(np.int64)
        known = source.counts_all_ranks or sum_over_ranks is not None
        return Counters(
            rows=source.rows(progress),
            samples=self.by_name(samples) if known else None,
            target_tokens=self.by_name(self.tokens.total),
            epochs=source.epochs(progress)[1],
        )

    def by_name(self, counts: Int64Array) -> dict[str, int]:
        """Counts of streams, by their names."""
        names = [stream.name for stream in self.source.mixture.streams]
        return dict(zip(names, counts.tolist(), strict=True))

    def save(self, *, alone: bool) -> dict[str, str]:
        """The entries of a checkpoint.

        Args:
            alone: Whether there is no other rank, so that the tokens are known.
        """
        # Each taken once, for another thread may be handing out batches; the tokens first, since
        # they are never counted beyond the progress.
        tokens = self.tokens
        progress = self.progress
        if alone:
            tokens = tokens.synced(progress, None)
        source, order = self.source, self.source.order
        # Before the first batch the order need not exist: under this layout it may not even be
        # possible, while the state that is to be loaded has one that is.
        begun = progress.samples_seen > source.first_position
        saved = SavedState(
            samples_seen=progress.samples_seen,
            origin=order.start,
            epoch_samples=source.epoch_rows() if begun or order.lanes else 0,
            identity=source.identity.to_save(
                order.options, source.mixture, order.lanes, begun=begun
            ),
            seen=tuple(progress.seen.tolist()),
            tokens=tuple(tokens.total.tolist()),
            skipped=order.skipped,
            tokens_at=tokens.at,
            probe=source.probe(progress) if begun else None,
            stages=order.stages,
            millitokens=() if order.stages else tuple(mean.millitokens for mean in order.means),
            left_out=order.skip.cut(progress.samples_seen),
        )
        return {KEY: saved.to_json(), **source.save_lanes(progress)}

    def resumed(self, state: Mapping[str, Any], *, on_change: str) -> "RunState":
        """The run that a saved state belongs to, for the present data.

        Args:
            state: The entries of a checkpoint.
            on_change: What to do where data or options are others: ``error``; ``restart_epoch`` to
                restart the checkpoint's epoch; or ``new_stage`` to begin a new stage.

        Raises:
            MosaicDataError: The state cannot be read, or its run had other data or options.
        """
        source = self.source
        saved = SavedState.from_json(state[KEY])
        kept = kept_means(saved.millitokens)
        weighs_alike = len(kept) == len(source.order.means)
        present = source.identity.to_compare(
            source.order.options,
            source.weighed(kept if weighs_alike else source.order.means),
            source.order.lanes,
            saved.identity,
        )
        if saved.stages is not None or source.stage_config is not None:
            return self._resumed_stages(saved, state, present, new_stage=on_change == "new_stage")
        found = compare(saved.identity, present, source.open_options)
        if bool(kept) != bool(source.order.means):
            counted = {True: "tokens", False: "samples"}
            found.append(f"weights_in was {counted[bool(kept)]!r} and is now {counted[not kept]!r}")
        if not found:
            again = source.of_run(_saved_order(saved, source.skip_option))
            if kept and not saved.begun:
                # Nothing was read by them: they may be estimates.
                again = source.of_run(replace(again.order, means=self._present_means()))
            progress = again.resume(saved, state)
            if again.follows(saved, state, progress):
                # The streams are the same in their order, and may have other names by now.
                return RunState(again, progress, _token_count(saved, saved.tokens))
            found = [order_difference(saved.identity, saved.samples_seen)]
        what = "; ".join(found)
        if on_change != "restart_epoch":
            raise MosaicDataError(
                f"the checkpoint does not fit the present data or options: {what}. Restore what "
                f'changed, or set on_data_change = "restart_epoch" in [mosaic_dataloader.dataset] '
                f"to restart the checkpoint's epoch with the present ones"
            )
        logger.warning(
            "data or options changed (%s); epoch %d restarts after %d samples",
            what,
            saved.epoch,
            saved.samples_seen,
        )
        start = EpochStart(saved.samples_seen, saved.epoch)
        order = replace(
            source.order, start=start, skipped=saved.skipped, means=self._present_means()
        )
        again = source.of_run(replace(order, skip=_left_out(saved, source.skip_option)))
        seen, tokens = (self._carried_over(saved, own) for own in (saved.seen, saved.tokens))
        none = np.zeros(len(seen), np.int64)
        progress = Progress(saved.samples_seen, np.array(seen, np.int64), none, {})
        return RunState(again, progress, _token_count(saved, tokens))

    def _resumed_stages(
        self, saved: SavedState, state: Mapping[str, Any], present: Identity, *, new_stage: bool
    ) -> "RunState":
        """The run with stages that a saved state belongs to; see `resumed`."""
        source, config = self.source, self.source.stage_config
        if saved.stages is None:
            raise MosaicDataError(
                "the checkpoint's run has an order of epochs, which cannot be continued by stages: "
                "remove the stages, or start a new run"
            )
        if config is None:
            raise MosaicDataError(
                "the checkpoint's run has stages, and the present options have none: restore "
                "stages, or start a new run"
            )
        found = compare(
            replace(saved.identity, streams=()),
            replace(present, streams=()),
            source.open_options,
        )
        if found:
            raise MosaicDataError(
                f"the checkpoint does not fit the present options: {'; '.join(found)}. Restore "
                f"what changed, or start a new run"
            )
        before = with_present_data(
            saved.stages,
            present.streams,
            source.token_mean,
            saved.seen,
            saved.tokens,
            begun=saved.begun,
        )
        means = tuple(before.means[number] for number in before.present)
        saved_order = _saved_order(saved, source.skip_option)
        order = replace(saved_order, stages=before, means=means)
        old = source.of_run(order)
        if not old.follows(saved, state, old.resume(saved, state)):
            raise MosaicDataError(
                f"{order_difference(saved.identity, saved.samples_seen)}: use the versions that "
                f"wrote it, or start a new run"
            )
        reached = old.reached(saved, state) if saved.begun else Reached(0, 0)
        stages = continued_stages(
            config,
            before,
            nodes=order.options.num_canonical_nodes,
            reached=reached,
            new_stage=new_stage,
            unit=source.unit,
        )
        again = source.of_run(replace(order, stages=stages))
        if reached is not None:
            again.sequence.require_streams(reached.low, reached.high, reached.lanes)
        seen, tokens = (
            [counts[number] for number in stages.present] for counts in (stages.seen, stages.tokens)
        )
        # Of those that are in the data, the run itself counts from here on.
        progress = again.resume(replace(saved, seen=tuple(seen)), state)
        return RunState(again, progress, _token_count(saved, tokens))

    def _present_means(self) -> tuple[TokenMean, ...]:
        """Tokens of a sample of each stream as the data have them now; none where none count."""
        source = self.source
        return tuple(map(source.token_mean, range(len(source.order.means))))

    def _carried_over(self, saved: SavedState, counts: Sequence[int]) -> list[int]:
        """Counts of streams that still have the same name; others start at 0."""
        names = [stream.name for stream in saved.identity.streams]
        before = dict(zip(names, counts, strict=True))
        return [before.get(s.name, 0) for s in self.source.mixture.streams]


def _saved_order(saved: SavedState, skip_option: Sequence[Range]) -> RunOrder:
    return RunOrder(
        saved.identity.order,
        saved.origin,
        saved.skipped,
        saved.identity.packing_lanes,
        saved.stages,
        kept_means(saved.millitokens),
        _left_out(saved, skip_option),
    )


def _left_out(saved: SavedState, skip_option: Sequence[Range]) -> Skip:
    """What a resumed run has left out, and what it leaves out from here on."""
    return skip_from(saved.samples_seen, skip_option, saved.left_out)


def _token_count(saved: SavedState, total: Sequence[int]) -> TokenCount:
    if saved.tokens_at != saved.samples_seen:
        logger.info(
            "the checkpoint counts target tokens up to sample %d of %d: call sync_token_counts "
            "before state_dict to have them all; those in between are missing from now on",
            saved.tokens_at,
            saved.samples_seen,
        )
    counts = np.array(total, np.int64)
    return TokenCount(counts, saved.tokens_at, np.zeros_like(counts), saved.samples_seen)
