"""The stateful dataloader of one data-parallel rank."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.metrics import RunMetrics, by_name
from mosaic_dataloader.options import LoaderOptions, from_arguments, with_option_texts
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.skip import skip_from
from mosaic_dataloader.pending import PendingBatches
from mosaic_dataloader.run import RunState
from mosaic_dataloader.run_log import log_begin, log_resumed
from mosaic_dataloader.sources import open_source
from mosaic_dataloader.sources.common import new_order
from mosaic_dataloader.sources.reader import BatchReader, Rows, checked_layout
from mosaic_dataloader.state.progress import Counters, EpochPass, RunOrder, SumOverRanks
from mosaic_dataloader.state.saved import KEY
from mosaic_dataloader.state.stages import PresentStage
from mosaic_dataloader.storage.cache import warn_of_thrashing
from mosaic_dataloader.util.arguments import flag


class MosaicParallelAwareDataloader:
    """Batches of one data-parallel rank, with a position that survives any change of layout.

    Micro-batch k of the run is the samples at positions ``[P, P + B)`` of the order,
    ``B = batch_size * dp_world_size``; every rank takes its rows of it. Where the data set's
    ``skip`` leaves out positions, it is the next B others. Tensor-, pipeline- and
    context-parallel ranks of one model replica pass the same ``dp_rank`` and get the same bytes.
    Nothing is read from the environment.

    With ``packing``, it is rows ``[P, P + B)`` of the run instead, each cut from the documents of
    one lane (see `mosaic_dataloader.packing`).

    Args:
        dataset: The data and the order's options.
        dp_rank: Data-parallel rank, from the trainer's batch mesh; ranks of a machine are
            consecutive.
        dp_world_size: Data-parallel ranks.
        batch_size: Rows of one micro-batch on this rank.
        num_nodes: Machines; sets only defaults at the first start of a run.
        infinite: Run across epoch ends without end. Otherwise an iteration ends with its epoch,
            and the next one begins the next epoch. With ``packing`` only on a single rank.
        confirm_batches: Count a batch when ``confirm`` is called for it and not when it is handed
            out. For trainers that fetch batches ahead of the step, such as Lightning and
            Accelerate: a checkpoint of theirs would otherwise skip what they hold.
        {options}

    Raises:
        MosaicDataError: An argument cannot be used, or the data are too few for the layout.
    """

    def __init__(
        self,
        dataset: StreamingTextDataset,
        *,
        dp_rank: int,
        dp_world_size: int,
        batch_size: int,
        num_nodes: int = 1,
        num_workers: int = LoaderOptions.num_workers,
        prefetch_factor: int | None = LoaderOptions.prefetch_factor,
        pin_memory: bool = LoaderOptions.pin_memory,
        persistent_workers: bool = LoaderOptions.persistent_workers,
        stall_warning: float = LoaderOptions.stall_warning,
        drop_last: bool = LoaderOptions.drop_last,
        infinite: bool = True,
        confirm_batches: bool = False,
        skip_samples: int = LoaderOptions.skip_samples,
    ):
        layout = checked_layout(dp_rank, dp_world_size, batch_size, num_nodes)
        flag("infinite", infinite)
        flag("confirm_batches", confirm_batches)
        options = from_arguments(LoaderOptions, locals())
        self.dataset = dataset
        self.dp_rank = dp_rank
        self.dp_world_size = dp_world_size
        self.batch_size = batch_size
        self.num_nodes = num_nodes
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.infinite = infinite
        self.skip_samples = options.skip_samples
        self._layout = layout
        self._extent = None if infinite else EpochPass(drop_last)
        self._reader = BatchReader(dataset, layout, options)
        self._pending = PendingBatches() if confirm_batches else None
        # Whether the run begins with this loader, and not with a state that is loaded.
        self._new = True
        self._metrics = RunMetrics()
        order = dataset.options.resolve(
            num_nodes=num_nodes, global_batch=layout.global_batch, local_batch=batch_size
        )
        if dataset.stage_config is not None and not infinite:
            raise MosaicDataError(
                "stages have no epoch at whose end an iteration could end; set infinite to true"
            )
        # Packed rows do not count the documents that the run skipped.
        begin = 0 if dataset.packing else self.skip_samples
        known = RunOrder(order, skipped=self.skip_samples, skip=skip_from(begin, dataset.skip))
        # Until something is asked of it: samples may have to be read for a new run's order, which
        # a run that resumes does not need.
        unread = new_order(dataset, known, read=False)
        self._run = RunState(open_source(dataset, layout, unread))
        length_known = self._run.source.length_known
        if dataset.skip and not infinite and not length_known:
            raise MosaicDataError(
                "skip leaves out rows of a run that is packed without end, and finite passes pad "
                "their last rows: set infinite to true, or remove skip"
            )
        self._order_is_known = not (
            dataset.counts_tokens and any(mean.estimated for mean in unread.means)
        )
        if not infinite and dp_world_size > 1 and not length_known:
            raise MosaicDataError(
                f"with packing, how many rows an epoch gives is known only when it has been read, "
                f"so {dp_world_size} ranks cannot end it together: set infinite to true, or "
                f"packing to false"
            )
        warn_of_thrashing(dataset.streams, dataset.mixture, order, dataset.cache_limit)

    @property
    def run(self) -> RunState:
        """The run.

        Raises:
            MosaicDataError: It is a new one, and samples whose length decides its order cannot be
                read.
        """
        if not self._order_is_known:
            order = new_order(self.dataset, self._run.source.order)
            self._run = RunState(open_source(self.dataset, self._layout, order))
            self._order_is_known = True
        return self._run

    @property
    def mixture(self) -> Mixture:
        """The streams, and how many samples an epoch of this run draws from each."""
        return self.run.source.mixture

    def check(self) -> None:
        """See that the data suffice for the layout; iterating does the same.

        It is not done at construction, because a state may be loaded first whose order is that
        of another layout.

        Raises:
            MosaicDataError: They do not; the message says what to change.
        """
        self._run.source.check(self._extent)

    @property
    def samples_seen(self) -> int:
        """Position of the run: samples of the order handed out by all ranks together, or skipped.

        See ``samples_skipped`` and ``left_out``. With ``packing``: rows handed out or left out.
        """
        return self.run.progress.samples_seen

    @property
    def samples_skipped(self) -> int:
        """Samples of the order that the run left out at its start.

        With ``packing``: documents, which ``samples_seen`` does not count.
        """
        return self.run.source.order.skipped

    @property
    def left_out(self) -> int:
        """Positions before the present one that ``skip`` left out of training.

        They count in ``samples_seen``, ``epoch`` and ``epochs_seen``, and in no ``counters``.
        """
        return self.run.source.order.skip.before(self.samples_seen)

    @property
    def epoch(self) -> int:
        """The epoch that the next sample belongs to, from 0; ``epochs_seen`` with stages.

        With ``packing``: that of the slowest of this rank's lanes.
        """
        return self.run.source.epochs(self.run.progress)[0]

    @property
    def epochs_seen(self) -> float:
        """The position in epochs: 1.25 is a quarter of the way through the second one.

        With ``packing``: of the documents that this rank's lanes have read. With stages: samples
        drawn from all streams, over the samples that all streams have.
        """
        return self.run.source.epochs(self.run.progress)[1]

    @property
    def samples_per_stream(self) -> dict[str, int]:
        """Samples handed out by all ranks together, by stream.

        With ``packing``: documents handed out to their ends since the run began, in the lanes that
        are this rank's now. Over all ranks their sum is the run's; see ``counters``.
        """
        return by_name(self.dataset, self.run.source.samples(self.run.progress).tolist())

    @property
    def tokens_per_stream(self) -> dict[str, int]:
        """Target tokens (labels not ignored) handed out by all ranks together, by stream.

        On a single rank they are up to date. With more ranks they are those up to the last call
        of ``sync_token_counts``. They are kept in the state. With ``packing`` a target counts for
        the stream of its own document.
        """
        return self.counters().target_tokens

    def sync_token_counts(self, sum_over_ranks: SumOverRanks | None = None) -> None:
        """Add the target tokens that all ranks were handed since the last call.

        All data-parallel ranks call this after the same batch: when they log, and before they save
        a state that is to have the exact number.

        Args:
            sum_over_ranks: Given this rank's counts, int64[streams] on the CPU, returns their sum
                over all data-parallel ranks (say, an all-reduce). A single rank needs none.

        Raises:
            MosaicDataError: There are several ranks and no way to sum over them.
        """
        self.run.sync_tokens(sum_over_ranks)

    def counters(self, sum_over_ranks: SumOverRanks | None = None) -> Counters:
        """What the run has counted, over all ranks.

        Args:
            sum_over_ranks: As for ``sync_token_counts``. With ``packing`` and several ranks it sums
                the samples, and all ranks call this together; without it they are None then.
        """
        return self._metrics.counters(self.run, sum_over_ranks)

    def metrics(self, sum_over_ranks: SumOverRanks | None = None) -> dict[str, float]:
        """What a trainer shows of the data, by the names to show it under.

        - ``data/epoch``, ``data/samples_seen`` and ``data/tokens_seen`` (targets), and of each
          stream ``data/NAME/samples`` and ``data/NAME/tokens``: see ``counters``.
        - Of several streams ``data/NAME/share``, a stream's share of what was handed out since the
          last call, and ``data/NAME/weight``, the share that it is to have at present: of the
          tokens where weights count tokens, else of the samples.
        - With stages, ``data/stage``: the number of the present one, from 1.

        Args:
            sum_over_ranks: As for ``sync_token_counts``, which this does as well; all ranks call
                this together. Without it, the tokens of several ranks are those up to the last
                ``sync_token_counts``, and with ``packing`` the samples are missing.
        """
        return self._metrics.metrics(self.run, sum_over_ranks)

    @property
    def stage(self) -> PresentStage | None:
        """The stage that the run is in; None where its order is one of epochs.

        It is the stage of the sample that was handed out last; before the first batch, that of the
        sample that comes next. With ``packing``: by how far this rank's lanes are on average.
        """
        return self._metrics.stage(self.run)

    def stage_begun(self) -> PresentStage | None:
        """The present stage, if it has begun since the last call; for a trainer's log.

        Which stage a run begins or resumes in is logged by the loader itself, when it is iterated.
        """
        return self._metrics.stage_begun(self.run)

    def loading_counters(self) -> dict[str, float]:
        """Where loading time goes: what this process and its workers did since it opened the data.

        Loaders that share a data set share all of it but the first two. What a worker process did
        is counted when its batch arrives. Any thread may call this, as often as it likes.

        Returns:
            ``wait_seconds``: what calls for the next batch waited for it, all together.
            ``batches_ready``: batches that can be taken now without waiting; with workers those
            that have arrived from them, at most 2.
            ``cache_hits``: shards that were in the cache when the order came to them.
            ``evictions``: shards removed from the cache to make room.
            ``retries``: further attempts to fetch a shard, after one that failed.
            ``texts_encoded``: texts that the tokenizer encoded.
            And for each stream ``NAME/shards_fetched`` and ``NAME/bytes_fetched``: shards that
            arrived from its store, and their bytes as the store has them (compressed or not).
        """
        streams = [stream.name for stream in self.dataset.streams]
        return {
            "wait_seconds": self._reader.watch.seconds,
            "batches_ready": self._reader.ready,
            **self.dataset.store.traffic.by_name(streams),
        }

    @property
    def epoch_samples(self) -> int:
        """Samples in an epoch, with ``packing`` documents; the same in all of them.

        With stages: samples of all streams.
        """
        return self.run.source.sequence.epoch_length

    @property
    def first_position(self) -> int:
        """Position of the first batch of the present order, after what was skipped."""
        return self.run.source.first_position

    @property
    def order(self) -> ResolvedOrder:
        """The options of the order, as they were resolved at the run's first start."""
        return self.run.source.order.options

    def describe(self, position: int) -> str:
        """A position of the run in words."""
        return self.run.source.describe(position)

    def __iter__(self) -> Iterator[Rows]:
        """Iterate from the present position on.

        Yields ``({"input": int64[B, T]}, labels int64[B, T])``, B rows of this rank; labels are
        the inputs shifted by one, -100 where there is nothing to predict. Batches are never
        rewritten: the caller may keep them. Starting an iteration ends the one before; batches of
        it that wait to be confirmed are handed out again. One thread at a time may take batches,
        in the process that started the iteration.
        """
        self.close()
        if self._pending is not None:
            self._pending.reset()
        run = self.run
        self.check()
        if not self._metrics.begun:
            stage = self._metrics.begin(run)
            if not self.dp_rank:
                log_begin(run, stage, self.skip_samples, new=self._new)
        begun = run.progress

        def end_pass() -> None:
            run.count(run.source.pass_ended(begun, run.progress))

        on_taken, on_end = run.count, end_pass
        if self._pending is not None:
            on_taken = partial(self._pending.add, run.count)
            on_end = partial(self._pending.on_complete, end_pass)
        return self._reader.start(
            run.source,
            begun,
            self._extent,
            on_taken=on_taken,
            on_end=on_end,
            after_first=self.dataset.identity.read_samples,
        )

    def __bool__(self) -> bool:
        """True, also where there is no length."""
        return True

    def __len__(self) -> int:
        """Batches in one whole pass, over the present epoch; the same on every rank.

        Raises:
            TypeError: The loader is infinite, or packs documents: how many rows they give is known
                only when they have been read.
        """
        if self.infinite:
            raise TypeError("an infinite dataloader has no length")
        if not self.run.source.length_known:
            raise TypeError("a dataloader that packs documents has no length")
        rows, source = self.epoch_samples, self.run.source
        if (skip := source.order.skip).ranges:
            begin = self.samples_seen - source.sequence.locate(self.samples_seen)[1]
            rows -= skip.before(begin + self.epoch_samples) - skip.before(begin)
        full, rest = divmod(rows, self._layout.global_batch)
        return full + (1 if rest and not self.drop_last else 0)

    def confirm(self, batches: int = 1) -> None:
        """Say that the oldest batches not yet confirmed were trained on: now they count.

        Every rank confirms as many.

        Args:
            batches: How many.

        Raises:
            MosaicDataError: The loader was made without ``confirm_batches``, or fewer batches are
                pending.
        """
        if self._pending is None:
            raise MosaicDataError(
                "confirm() is for a loader that was made with confirm_batches = true; this one "
                "counts batches as it hands them out"
            )
        self._pending.confirm(batches)

    @property
    def uneven_batches(self) -> bool:
        """Whether a pass may give ranks different numbers of batches."""
        return not self.infinite and not self.run.source.length_known

    def state_dict(self) -> dict[str, str]:
        """The position after the batches handed out (or confirmed) so far.

        Returns:
            ``{"mosaic": JSON}``, the same on all ranks and valid before the first batch. What
            threads or workers have read ahead does not count. In a thread other than the one that
            takes the batches it is the state before or after one of them. With ``packing`` also one
            entry ``"lane_NNNN"`` for each lane of this rank: a checkpoint holds those of all ranks.
        """
        # torch asks for it before it loads one: nothing is read for that.
        return self._run.save()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a saved position; the next iteration begins there.

        An empty mapping is taken for a checkpoint without data and changes nothing.

        Args:
            state_dict: What `state_dict` returned. With ``packing``, the entries of all ranks
                joined, or at least those of the lanes that are this rank's now.

        Raises:
            MosaicDataError: The state is damaged, of another loader, or was written with other
                data or options than the present ones; the message says which.
        """
        if not isinstance(state_dict, Mapping):
            raise MosaicDataError(
                f"the saved data state is a {type(state_dict).__name__}, not a mapping; pass what "
                f"state_dict() returned"
            )
        if not state_dict:
            return
        if KEY not in state_dict:
            raise MosaicDataError(
                f"the saved data state has {', '.join(sorted(map(str, state_dict)))} and no "
                f'"{KEY}"; it was written by another loader. Leave it out '
                f"(checkpoint.exclude_from_loading = dataloader) to start the data from the "
                f"beginning"
            )
        self.close()
        self._run = self._run.resumed(state_dict)
        self._order_is_known = True
        self._metrics.reset()
        if self._pending is not None:
            self._pending.reset()
        self._new = False
        if not self.dp_rank:
            log_resumed(self._run, self.skip_samples)

    def close(self) -> None:
        """Stop reading ahead. The position stays; iterating again continues from it."""
        self._reader.close()


MosaicParallelAwareDataloader.__doc__ = with_option_texts(
    MosaicParallelAwareDataloader.__doc__, LoaderOptions
)
