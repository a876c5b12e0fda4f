"""What a run has counted, and what a trainer shows of it: streams, their shares, the stage."""

from collections.abc import Iterable
from typing import TypeVar

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.run import RunState
from mosaic_dataloader.state.progress import Counters, SumOverRanks, summed
from mosaic_dataloader.state.stages import PresentStage, present_stage, weighed

T = TypeVar("T")


class RunMetrics:
    """What a trainer shows of one loader's run, and what it was shown last.

    The methods take the run, which is another one once a state is loaded; see the loader's methods
    of the same names.
    """

    def __init__(self) -> None:
        # Position of the order at which the first iteration of the run, or of a loaded state,
        # began; None before it.
        self._begin: int | None = None
        self._known_stage = 0
        # What weights count (see `_counted`), as it was when shares were shown last.
        self._shown: Int64Array

    @property
    def begun(self) -> bool:
        """Whether batches of the run were asked for since it began or was resumed."""
        return self._begin is not None

    def reset(self) -> None:
        """Another run is shown from now on."""
        self._begin = None

    def begin(self, run: RunState) -> PresentStage | None:
        """Note where the run is before anything of it is handed out; returns its stage."""
        stage, self._shown = self.stage(run), self._counted(run)
        # Only stages ask for it.
        self._begin = run.source.position(run.progress) if stage else 0
        if stage is not None:
            self._known_stage = stage.number
        return stage

    def counters(self, run: RunState, sum_over_ranks: SumOverRanks | None) -> Counters:
        """What the run has counted, over all ranks."""
        source, progress = run.source, run.progress
        if source.layout.world_size == 1:
            run.sync_tokens(None)
        samples = source.samples(progress)
        if not source.counts_all_ranks:
            samples = summed(samples, sum_over_ranks)
        known = source.counts_all_ranks or sum_over_ranks is not None
        return Counters(
            rows=source.rows(progress),
            samples=by_name(source.dataset, samples.tolist()) if known else None,
            target_tokens=by_name(source.dataset, run.tokens.total.tolist()),
            epochs=source.epochs(progress)[1],
        )

    def metrics(self, run: RunState, sum_over_ranks: SumOverRanks | None) -> dict[str, float]:
        """The figures, by the names to show them under."""
        if run.source.layout.world_size > 1 and sum_over_ranks is not None:
            run.sync_tokens(sum_over_ranks)
        counters = self.counters(run, sum_over_ranks)
        samples, tokens = counters.samples or {}, counters.target_tokens
        found: dict[str, float] = {
            "data/epoch": counters.epochs,
            "data/samples_seen": counters.rows,
            "data/tokens_seen": sum(tokens.values()),
            **{f"data/{name}/samples": count for name, count in samples.items()},
            **{f"data/{name}/tokens": count for name, count in tokens.items()},
        }
        stage = self.stage(run)
        if stage is not None:
            found["data/stage"] = stage.number
        if len(tokens) > 1:
            for name, weight in self._weights(run, stage).items():
                found[f"data/{name}/weight"] = weight
            for name, share in self._shares(run, sum_over_ranks).items():
                found[f"data/{name}/share"] = share
        return found

    def stage(self, run: RunState) -> PresentStage | None:
        """The stage that the run is in."""
        source = run.source
        if source.order.stages is None:
            return None
        position = source.position(run.progress)
        last = position - (self._begin is not None and position > self._begin)
        return present_stage(source.order.stages, last, source.dataset.options.weights_in)

    def stage_begun(self, run: RunState) -> PresentStage | None:
        """The present stage, if it has begun since the last call."""
        stage = self.stage(run)
        if stage is None or self._begin is None or stage.number == self._known_stage:
            return None
        self._known_stage = stage.number
        return stage

    def _counted(self, run: RunState) -> Int64Array:
        """What weights count, int64[streams]: tokens of all ranks, or samples that are known."""
        if run.source.dataset.options.weights_in == "tokens":
            return run.tokens.total
        return run.source.samples(run.progress)

    def _shares(self, run: RunState, sum_over_ranks: SumOverRanks | None) -> dict[str, float]:
        """Shares of what was handed out since the last call; empty where they are not known."""
        if self._begin is None:
            return {}
        counted = self._counted(run)
        gained, self._shown = counted - self._shown, counted
        if run.source.dataset.options.weights_in == "samples" and not run.source.counts_all_ranks:
            if sum_over_ranks is None:
                return {}
            gained = summed(gained, sum_over_ranks)
        total = int(gained.sum())
        return by_name(run.source.dataset, (gained / total).tolist()) if total else {}

    def _weights(self, run: RunState, stage: PresentStage | None) -> dict[str, float]:
        """The share that each stream is to have at present."""
        dataset = run.source.dataset
        if stage is not None:
            return {one.name: stage.weights.get(one.name, 0.0) for one in dataset.streams}
        counts = [size.choose for size in run.source.mixture.streams]
        return by_name(dataset, weighed(counts, dataset.millitokens, dataset.options.weights_in))


def by_name(dataset: StreamingTextDataset, values: Iterable[T]) -> dict[str, T]:
    """Values of the streams, by their names."""
    return {one.name: own for one, own in zip(dataset.streams, values, strict=True)}
