"""A run: how far it has come, and how it is saved and resumed."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import TokenMean
from mosaic_dataloader.order.sequence import EpochStart
from mosaic_dataloader.order.skip import skip_from
from mosaic_dataloader.sources import BatchSource, open_source
from mosaic_dataloader.state.identity import Identity, compare, order_difference
from mosaic_dataloader.state.progress import Progress, RunOrder, SumOverRanks, TokenCount
from mosaic_dataloader.state.saved import KEY, SavedState
from mosaic_dataloader.state.stages import Reached, continued_stages, kept_means, with_present_data

logger = logging.getLogger(__name__)


class RunState:
    """How far a run has come.

    One thread hands out batches, and replaces the progress with each, while others may save.

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

    def sync_tokens(self, sum_over_ranks: SumOverRanks | None) -> None:
        """Add the target tokens that all ranks were handed since the last call.

        Raises:
            MosaicDataError: There are several ranks and no way to sum over them.
        """
        ranks = self.source.layout.world_size
        if sum_over_ranks is None and ranks > 1:
            raise MosaicDataError(
                f"sync_token_counts needs sum_over_ranks to sum over {ranks} ranks"
            )
        self.tokens = self.tokens.synced(self.progress, sum_over_ranks)

    def save(self) -> dict[str, str]:
        """The entries of a checkpoint."""
        # Each taken once, for another thread may be handing out batches; the tokens first, since
        # they are never counted beyond the progress.
        tokens = self.tokens
        progress = self.progress
        source, order = self.source, self.source.order
        if source.layout.world_size == 1:
            tokens = tokens.synced(progress, None)
        # Before the first batch the order need not exist: under this layout it may not even be
        # possible, while the state that is to be loaded has one that is.
        begun = progress.samples_seen > source.first_position
        saved = SavedState(
            samples_seen=progress.samples_seen,
            origin=order.start,
            epoch_samples=source.epoch_rows() if begun or order.lanes else 0,
            identity=source.dataset.identity.to_save(
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

    def resumed(self, state: Mapping[str, Any]) -> "RunState":
        """The run that the entries of a checkpoint belong to, for the present data.

        Raises:
            MosaicDataError: The state cannot be read; or its run had other data or options, and
                ``on_data_change`` does not take that.
        """
        source, dataset = self.source, self.source.dataset
        saved = SavedState.from_json(state[KEY])
        kept = kept_means(saved.millitokens)
        weighs_alike = len(kept) == len(source.order.means)
        present = dataset.identity.to_compare(
            source.order.options,
            dataset.weighed(kept if weighs_alike else source.order.means),
            source.order.lanes,
            saved.identity,
        )
        if saved.stages is not None or dataset.stage_config is not None:
            return self._resumed_stages(saved, state, present)
        found = compare(saved.identity, present, _open_options(dataset))
        if bool(kept) != bool(source.order.means):
            counted = {True: "tokens", False: "samples"}
            found.append(f"weights_in was {counted[bool(kept)]!r} and is now {counted[not kept]!r}")
        order = _saved_order(saved, dataset)
        if not found:
            if kept and not saved.begun:
                # Nothing was read by them: they may be estimates.
                order = replace(order, means=self._present_means())
            again = open_source(dataset, source.layout, order)
            progress = again.resume(saved, state)
            if again.follows(saved, state, progress):
                # The streams are the same in their order, and may have other names by now.
                return RunState(again, progress, _token_count(saved, saved.tokens))
            found = [order_difference(saved.identity, saved.samples_seen)]
        what = "; ".join(found)
        if dataset.options.on_data_change != "restart_epoch":
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
        present_order = replace(
            source.order,
            start=EpochStart(saved.samples_seen, saved.epoch),
            skipped=order.skipped,
            means=self._present_means(),
            skip=order.skip,
        )
        again = open_source(dataset, source.layout, present_order)
        seen, tokens = (self._carried_over(saved, own) for own in (saved.seen, saved.tokens))
        none = np.zeros(len(seen), np.int64)
        progress = Progress(saved.samples_seen, np.array(seen, np.int64), none, {})
        return RunState(again, progress, _token_count(saved, tokens))

    def _resumed_stages(
        self, saved: SavedState, state: Mapping[str, Any], present: Identity
    ) -> "RunState":
        """The run with stages that a saved state belongs to; see `resumed`."""
        dataset, layout = self.source.dataset, self.source.layout
        config = dataset.stage_config
        if saved.stages is None:
            raise MosaicDataError(
                "the checkpoint's run has an order of epochs, which cannot be resumed with stages: "
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
            _open_options(dataset),
        )
        if found:
            raise MosaicDataError(
                f"the checkpoint does not fit the present options: {'; '.join(found)}. Restore "
                f"what changed, or start a new run"
            )
        before = with_present_data(
            saved.stages,
            present.streams,
            dataset.token_mean,
            saved.seen,
            saved.tokens,
            begun=saved.begun,
        )
        means = tuple(before.means[number] for number in before.present)
        order = replace(_saved_order(saved, dataset), stages=before, means=means)
        old = open_source(dataset, layout, order)
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
            new_stage=dataset.options.on_data_change == "new_stage",
            unit=old.unit,
        )
        again = open_source(dataset, layout, replace(order, stages=stages))
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
        means = range(len(self.source.order.means))
        return tuple(map(self.source.dataset.token_mean, means))

    def _carried_over(self, saved: SavedState, counts: Sequence[int]) -> list[int]:
        """Counts of streams that still have the same name; others start at 0."""
        names = [stream.name for stream in saved.identity.streams]
        before = dict(zip(names, counts, strict=True))
        return [before.get(s.name, 0) for s in self.source.mixture.streams]


def _saved_order(saved: SavedState, dataset: StreamingTextDataset) -> RunOrder:
    """The order of a saved run, with what is left out of it from here on."""
    return RunOrder(
        saved.identity.order,
        saved.origin,
        saved.skipped,
        saved.identity.packing_lanes,
        saved.stages,
        kept_means(saved.millitokens),
        skip_from(saved.samples_seen, dataset.skip, saved.left_out),
    )


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


def _open_options(dataset: StreamingTextDataset) -> list[str]:
    """Options of the order that the user left open; a saved value stands for them."""
    names = ("num_canonical_nodes", "shuffle_block_size", "packing_lanes")
    return [name for name in names if getattr(dataset.options, name) is None]
