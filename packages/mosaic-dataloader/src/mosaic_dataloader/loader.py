"""The stateful dataloader of one data-parallel rank."""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from mosaic_dataloader.confirming import Unconfirmed
from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import LoaderOptions
from mosaic_dataloader.order.batches import BatchRequest, Layout, endless_batches, one_pass
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.packing.batches import PackedBatch
from mosaic_dataloader.packing.bookkeeping import PackedBookkeeping
from mosaic_dataloader.packing.preview import PackedRow, Progress, preview_rows
from mosaic_dataloader.packing.source import Pass, packed_batches
from mosaic_dataloader.reading.origins import RowOrigin, batch_origins
from mosaic_dataloader.reading.prefetch import PrefetchIterator, prefetch
from mosaic_dataloader.reading.targets import targets_per_stream
from mosaic_dataloader.reading.workers import WorkerPool, read_here
from mosaic_dataloader.state.bookkeeping import Bookkeeping
from mosaic_dataloader.state.mark import Mark
from mosaic_dataloader.state.position import KEY
from mosaic_dataloader.state.tokens import SumOverRanks
from mosaic_dataloader.storage.cache import warn_of_thrashing
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.util.arguments import flag, integer


def check_skip(skip_samples: int, order: SettledOrder) -> None:
    """See that a run may begin there.

    Raises:
        MosaicDataError: It would begin in the middle of a batch in which its order is built.
    """
    if order.unit and skip_samples % order.unit:
        below = skip_samples // order.unit * order.unit
        raise MosaicDataError(
            f"skip_samples = {skip_samples} ends inside a global batch of {order.unit}, and "
            f"batching_method = {order.batching_method!r} orders data by it; use {below} or "
            f"{below + order.unit}"
        )


def pinner(
    pin_memory: bool,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[], None] | None]:
    """How to pin a tensor, and what a thread that pins has to do first.

    Raises:
        MosaicDataError: Pinning was asked for and there is no accelerator to copy to.
    """
    if not pin_memory:
        return (lambda tensor: tensor), None
    if not torch.cuda.is_available():
        raise MosaicDataError("pin_memory = true needs a CUDA device; set it to false")
    device = torch.cuda.current_device()
    # A new thread starts on device 0 and would make a context there.
    return torch.Tensor.pin_memory, lambda: torch.cuda.set_device(device)


logger = logging.getLogger(__name__)

# Batches that are kept ready by default take no more than this, unless two do.
_READY_BYTES = 16 << 20
# Enough documents for all of a tokenizer's threads.
_ENCODED_ROWS = 128

Rows = tuple[dict[str, torch.Tensor], torch.Tensor]
# A batch as it is read: what was asked for, inputs, labels and targets by stream.
_Read = tuple[BatchRequest | PackedBatch, torch.Tensor, torch.Tensor, Int64Array]


class MosaicParallelAwareDataloader:
    """Batches of one data-parallel rank, with a position that survives any change of layout.

    Micro-batch k of the run is the samples at positions ``[P, P + B)`` of the order,
    ``B = batch_size * dp_world_size``; every rank takes its rows of it. Tensor-, pipeline- and
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
        num_workers: Worker processes that read rows; 0 reads in a thread of this process. The
            batches are the same.
        prefetch_factor: Batches kept ready, per worker if there are any. By default 2 per worker;
            without workers as many as fit into 16 MiB, but 2 to 16.
        pin_memory: Put batches into page-locked memory.
        persistent_workers: Keep worker processes from one iteration to the next.
        drop_last: For ``infinite=False``: leave out the partial batch at an epoch's end; otherwise
            it is padded with rows whose labels are all ignored.
        infinite: Run across epoch ends without end. Otherwise an iteration ends with its epoch,
            and the next one begins the next epoch. With ``packing`` only on a single rank.
        confirm_batches: Count a batch when ``confirm`` is called for it and not when it is handed
            out. For trainers that fetch batches ahead of the step, such as Lightning and
            Accelerate: a checkpoint of theirs would otherwise skip what they hold.
        skip_samples: Samples of the order that a new run leaves out at its start. A loaded position
            counts from the beginning of the order, so that nothing is skipped twice: it wins,
            whatever is given here then, and a line in the log says so. With ``packing`` these are
            documents: each lane begins with its first one that lies behind them.

    Raises:
        MosaicDataError: An argument cannot be used, or the data are too few for the layout.
    """

    # Whether every iteration is over the same epoch.
    _same_pass = False

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
        drop_last: bool = LoaderOptions.drop_last,
        infinite: bool = True,
        confirm_batches: bool = False,
        skip_samples: int = LoaderOptions.skip_samples,
    ):
        _check(dp_rank, dp_world_size, batch_size, num_nodes)
        flag("infinite", infinite)
        flag("confirm_batches", confirm_batches)
        options = LoaderOptions(
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers,
            drop_last=drop_last,
            skip_samples=skip_samples,
        )
        if persistent_workers and not num_workers:
            raise MosaicDataError("persistent_workers = true needs num_workers of at least 1")
        self.dataset = dataset
        self.dp_rank = dp_rank
        self.dp_world_size = dp_world_size
        self.batch_size = batch_size
        self.num_nodes = num_nodes
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.infinite = infinite
        self._prefetch_factor = prefetch_factor
        self._persistent_workers = persistent_workers
        self._layout = Layout(dp_rank, dp_world_size, batch_size)
        self._pin, self._thread_setup = pinner(pin_memory)
        self._workers: WorkerPool | None = None
        self._unconfirmed = Unconfirmed() if confirm_batches else None
        # Weak: an iteration that its caller drops stops reading at once.
        self._iterator: weakref.ref[PrefetchIterator[Rows, Mark]] | None = None
        self.skip_samples = skip_samples = options.skip_samples
        # Whether the run begins with this loader and has not done so yet.
        self._new = True
        self._books: Bookkeeping = (
            PackedBookkeeping(dataset, self._settled(), self._layout, skipped=skip_samples)
            if dataset.packing
            else Bookkeeping(dataset, self._settled(), skip_samples, skipped=skip_samples)
        )
        if dataset.packing and not infinite and not self._same_pass and dp_world_size > 1:
            raise MosaicDataError(
                f"with packing, how many rows an epoch gives is known only when it has been read, "
                f"so {dp_world_size} ranks cannot end it together: set infinite to true, or "
                f"packing to false"
            )
        warn_of_thrashing(dataset.streams, dataset.mixture, self._books.order, dataset.cache_limit)

    def check(self) -> None:
        """See that the data suffice for the layout; iterating does the same.

        It is not done at construction, because a state may be loaded first that brings an order
        of another layout with it.

        Raises:
            MosaicDataError: They do not; the message says what to change.
        """
        self._timeline.check()
        if self.dataset.packing:
            return
        if self._new:
            check_skip(self.skip_samples, self._books.order)
        length, batch = self._timeline.epoch_length, self._layout.global_batch
        if not self.infinite and self.drop_last and length < batch:
            raise MosaicDataError(
                f"an epoch of {length} samples does not fill one global batch of {batch}; add "
                f"data, lower the batch size, or set drop_last to false"
            )

    @property
    def samples_seen(self) -> int:
        """Position of the run: samples of the order handed out by all ranks together, or skipped.

        See ``samples_skipped``. With ``packing``: rows handed out.
        """
        return self._books.samples_seen

    @property
    def samples_skipped(self) -> int:
        """Samples of the order that the run left out at its start.

        With ``packing``: documents, which ``samples_seen`` does not count.
        """
        return self._books.skipped

    @property
    def epoch(self) -> int:
        """The epoch that the next sample belongs to, from 0.

        With ``packing``: that of the hindmost of this rank's lanes.
        """
        return self._books.epoch

    @property
    def epochs_seen(self) -> float:
        """The position in epochs: 1.25 is a quarter of the way through the second one.

        With ``packing``: of the documents that this rank's lanes have behind them.
        """
        return self._books.epochs_seen

    @property
    def samples_per_stream(self) -> dict[str, int]:
        """Samples handed out by all ranks together, by stream.

        With ``packing``: documents handed out to their ends since the run began, in the lanes that
        are this rank's now. Over all ranks their sum is the run's.
        """
        return self._books.per_stream()

    @property
    def tokens_per_stream(self) -> dict[str, int]:
        """Target tokens (labels not ignored) handed out by all ranks together, by stream.

        Of a single rank they are up to date. With more ranks they are those up to the last call
        of ``settle_tokens``. They are kept in the state. With ``packing`` a target counts for the
        stream of its own document.
        """
        self._settle_alone()
        return self._books.tokens_per_stream()

    def settle_tokens(self, sum_over_ranks: SumOverRanks | None = None) -> None:
        """Add the target tokens that all ranks were handed since the last call.

        All data-parallel ranks call this after the same batch: when they log, and before they save
        a state that is to have the exact number.

        Args:
            sum_over_ranks: Given this rank's counts, int64[streams] on the CPU, returns their sum
                over all data-parallel ranks (say, an all-reduce). A single rank needs none.

        Raises:
            MosaicDataError: There are several ranks and no way to sum over them.
        """
        if sum_over_ranks is None and self.dp_world_size > 1:
            raise MosaicDataError(
                f"settle_tokens needs sum_over_ranks to sum over {self.dp_world_size} ranks"
            )
        self._books.settle_tokens(sum_over_ranks)

    def _settle_alone(self) -> None:
        if self.dp_world_size == 1:
            self.settle_tokens()

    @property
    def epoch_samples(self) -> int:
        """Samples in an epoch, with ``packing`` documents; the same in all of them."""
        return self._timeline.epoch_length

    def origins(self, position: int) -> list[RowOrigin]:
        """Rows of the global batch that begins at a position, of all ranks, rank after rank.

        Nothing is read or fetched but the order, and the position of the run stays where it is.
        ``read_origin`` reads such a row.

        With ``packing`` a row has several origins: one `DocumentOrigin` for each document, or part
        of one, that is in it. They are known only when they are read; see ``packed_rows``, also
        for what is raised.
        """
        if self.dataset.packing:
            rows = list(islice(self.packed_rows(position), self._layout.global_batch))
            rows.sort(key=lambda one: (one.rank, one.row))
            return [document for one in rows for document in one.documents]
        return batch_origins(self.dataset, self._timeline, self._layout, position)

    def stream_counts(self, position: int, batches: int) -> Int64Array:
        """Samples of each stream in the global batches from a position on.

        With ``packing``: target tokens, since a row is of several streams. They are known only
        when they are read; see ``packed_rows``, also for what is raised.

        Returns:
            int64[batches, streams].
        """
        size = self._layout.global_batch
        if self.dataset.packing:
            rows = islice(self.packed_rows(position), batches * size)
            counts: Int64Array = np.stack([one.targets for one in rows])
            total: Int64Array = counts.reshape(batches, size, -1).sum(axis=1)
            return total
        ids, _ = self._timeline.rows(position, position + batches * size)
        return self.dataset.mixture.count_per_stream(ids.reshape(batches, size))

    def packed_rows(self, position: int, progress: Progress | None = None) -> Iterator[PackedRow]:
        """Packed rows of all ranks from a position on, in the order of the run and without end.

        They are the rows that training is given, with the documents that each is made of. The
        position of the run stays where it is.

        Which documents a row holds follows from the lengths of all before it. So the lanes are
        read from the last row before ``position`` at which all of them are known, which costs what
        training's own reading of these rows costs. That row is the present one on a single rank,
        that of a loaded state that held the lanes of all ranks, or else the order's first.

        Args:
            position: The first row; global batches are counted from it.
            progress: Called every thousand rows, and at the last one, with the rows read and the
                rows to read before ``position`` is reached.

        Raises:
            MosaicDataError: The loader does not pack or reads finite passes, the position lies
                before the present order, a loaded lane is damaged, or the data cannot be read.
        """
        if not isinstance(self._books, PackedBookkeeping):
            raise MosaicDataError("packed_rows() is for a data set with packing = true")
        if not self.infinite:
            raise MosaicDataError(
                "packed_rows(), with packing also origins() and stream_counts(), look ahead in a "
                "loader that runs across epochs: make one with infinite = true"
            )
        return preview_rows(
            self.dataset,
            self._books,
            self._layout,
            position,
            predownload=self._predownload,
            progress=progress,
        )

    @property
    def order_begins_at(self) -> int:
        """Position at which the present order begins: 0, or where ``on_data_change`` began it."""
        return self._books.origin.samples

    @property
    def order(self) -> SettledOrder:
        """The options of the order, as they were settled at the run's first start."""
        return self._books.order

    def __iter__(self) -> Iterator[Rows]:
        """Iterate from the present position on.

        Yields ``({"input": int64[B, T]}, labels int64[B, T])``, B rows of this rank; labels are
        the inputs shifted by one, -100 where there is nothing to predict. Batches are never
        rewritten: the caller may keep them. Starting an iteration ends the one before; batches of
        it that wait to be confirmed are handed out again. One thread at a time may take batches,
        in the process that started the iteration.
        """
        self.close()
        self._forget_unconfirmed()
        self.check()
        self._begin()
        start = self._start()
        source = self._source(start)
        iterator = prefetch(
            source,
            # Workers keep their own batches ready.
            2 if self.num_workers else self._depth,
            on_taken=self._counting(),
            on_end=partial(self._at_end, start),
            setup=self._thread_setup,
            idle=self.dataset.store.release,
            on_stop=self._workers.stop if self._workers else lambda: None,
        )
        self._iterator = weakref.ref(iterator)
        return iterator

    def __bool__(self) -> bool:
        """True, also where there is no length."""
        return True

    def __len__(self) -> int:
        """Batches in one whole pass; the same on every rank.

        Raises:
            TypeError: The loader is infinite, or packs documents: how many rows they give is known
                only when they have been read.
        """
        if self.infinite:
            raise TypeError("an infinite dataloader has no length")
        if self.dataset.packing:
            raise TypeError("a dataloader that packs documents has no length")
        full, rest = divmod(self._timeline.epoch_length, self._layout.global_batch)
        return full + (1 if rest and not self.drop_last else 0)

    def confirm(self, batches: int = 1) -> None:
        """Say that the oldest batches not yet confirmed were trained on: now they count.

        Every rank confirms as many.

        Args:
            batches: How many.

        Raises:
            MosaicDataError: The loader counts without being told, or so many do not wait.
        """
        if self._unconfirmed is None:
            raise MosaicDataError(
                "confirm() is for a loader that was made with confirm_batches = true; this one "
                "counts batches as it hands them out"
            )
        self._unconfirmed.confirm(batches)

    @property
    def uneven_batches(self) -> bool:
        """Whether a pass may give ranks different numbers of batches.

        It does in validation with ``packing``. Trainers whose ranks go in step then have those that
        have no batch left run on one in which every label is ignored.
        """
        return self.dataset.packing and not self.infinite

    def state_dict(self) -> dict[str, str]:
        """The position after the batches handed out (or confirmed) so far.

        Returns:
            ``{"mosaic": JSON}``, the same on all ranks and valid before the first batch. What
            threads or workers have read ahead does not count. In a thread other than the one that
            takes the batches it is the state before or after one of them. With ``packing`` also one
            entry ``"lane_NNNN"`` for each lane of this rank: a checkpoint holds those of all ranks.
        """
        # Taken once: another thread may be handing out batches.
        books = self._books.snapshot()
        if self.dp_world_size == 1:
            books.settle_tokens(None)
        return books.state()

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
        self._books = self._books.continued(state_dict)
        self._forget_unconfirmed()
        self._new = False
        self._tell_of_skipping()

    def close(self) -> None:
        """Stop reading ahead. The position stays; iterating again continues from it."""
        iterator = self._iterator() if self._iterator else None
        if iterator is not None:
            iterator.close()
        self._iterator = None

    def _begin(self) -> None:
        """Say once where a new run begins, if that is not the beginning."""
        if self._new and self.skip_samples and not self.dp_rank:
            epoch, place = self._timeline.locate(self.skip_samples)
            logger.info(
                "skip_samples: the run begins at sample %d of epoch %d, %d samples into the order",
                place,
                epoch,
                self.skip_samples,
            )
        self._new = False

    def _tell_of_skipping(self) -> None:
        """Say that a loaded position wins over skip_samples."""
        before = self._books.skipped
        if self.dp_rank or not (self.skip_samples or before):
            return
        known = self.skip_samples == before
        logger.log(
            logging.INFO if known else logging.WARNING,
            "the run goes on at %s, where its checkpoint was written; "
            "skip_samples = %d has no effect: it began with skip_samples = %d",
            f"row {self.samples_seen}"
            if self.dataset.packing
            else f"sample {self.samples_seen} of the order",
            self.skip_samples,
            before,
        )

    def _settled(self) -> SettledOrder:
        return self.dataset.order_options.settle(
            num_nodes=self.num_nodes,
            global_batch=self._layout.global_batch,
            local_batch=self.batch_size,
        )

    @property
    def _timeline(self) -> EpochSequence:
        return self._books.timeline

    def _start(self) -> int:
        """Position at which an iteration begins; with packing, the epoch that it reads."""
        if isinstance(self._books, PackedBookkeeping):
            return self._books.epochs_behind()
        return self._books.samples_seen

    def _requests(self, start: int) -> Iterator[BatchRequest]:
        if self.infinite:
            return endless_batches(self._timeline, self._layout, start)
        return one_pass(
            self._timeline, self._layout, start, drop_last=self.drop_last, last=self._same_pass
        )

    def _epoch_end(self, start: int) -> int:
        _, place = self._timeline.locate(start)
        return start + self._timeline.epoch_length - place

    def _extent(self, start: int) -> Pass:
        """What an iteration over packed rows reads."""
        if self.infinite:
            return Pass()
        return Pass(start, self.drop_last, at_least_one=self._same_pass)

    def _source(self, start: int) -> Iterator[tuple[Rows, Mark]]:
        """Batches from ``start`` on, made ready in the background, each with its mark."""
        return _ready(
            self._read(start),
            self._books,
            self._books.mark,
            self._pin,
            self.dataset.store,
            self._after_first_batch,
        )

    def _after_first_batch(self) -> None:
        """Begin what the first batch is not to wait for."""
        if not self._same_pass:
            self.dataset.identity.read_samples()

    def _read(self, start: int) -> Iterator[_Read]:
        """Batches from ``start`` on, as they are read, each with its targets by stream."""
        self.dataset.store.register()
        ahead = self._predownload
        if self.num_workers and (self._workers is None or self._workers.inherited):
            self._workers = WorkerPool(
                self.dataset, self.num_workers, self._prefetch_factor, self._persistent_workers
            )
        if isinstance(self._books, PackedBookkeeping):
            packed = packed_batches(
                self.dataset,
                self._books.beginning() if self._same_pass else self._books,
                self._extent(start),
                batch_size=self.batch_size,
                predownload=ahead,
                workers=self._workers,
                under_way=self.num_workers * (self._prefetch_factor or 2),
            )
            return (
                (one, torch.from_numpy(one.inputs), torch.from_numpy(one.labels), one.targets)
                for one in packed
            )
        if self._workers:
            read = self._workers.read(lambda: self._requests(start), ahead)
        else:
            read = read_here(self.dataset, lambda: self._requests(start), ahead, self._group_rows)
        return (
            (one, rows.inputs, rows.labels, targets_per_stream(one, rows, self.dataset.mixture))
            for one, rows in read
        )

    @property
    def _predownload(self) -> int:
        """How many of the rank's samples ahead shards are fetched."""
        ahead = self.dataset.predownload
        return max(64, 8 * self.batch_size) if ahead is None else ahead

    @property
    def _depth(self) -> int:
        """Batches that the background thread keeps ready."""
        if self._prefetch_factor is not None:
            return self._prefetch_factor
        # Inputs and labels, int64 each.
        batch_bytes = 2 * 8 * self.batch_size * self.dataset.seq_len
        return max(2, min(16, _READY_BYTES // batch_bytes))

    @property
    def _group_rows(self) -> int:
        """Rows whose texts are encoded at once."""
        # While half of the batches that are kept ready are used up, the other half comes: a
        # tokenizer that keeps up with training never lets it wait.
        return min(_ENCODED_ROWS, self.batch_size * max(1, self._depth // 2))

    def _counting(self) -> Callable[[Mark], None]:
        """What counts a batch of an iteration that begins, or remembers to once it is confirmed."""
        reach, unconfirmed = self._books.marks.append, self._unconfirmed
        if unconfirmed is None:
            return reach
        return lambda mark: unconfirmed.batch(partial(reach, mark))

    def _at_end(self, start: int) -> None:
        """Note, once all of its batches count, that a finite iteration came to its end."""
        if self._unconfirmed is None:
            self._pass_ended(start)
        else:
            self._unconfirmed.then(partial(self._pass_ended, start))

    def _pass_ended(self, start: int) -> None:
        """Note that a finite iteration came to its end."""
        if isinstance(self._books, PackedBookkeeping):
            self._books.pass_ended(start)
        else:
            self._books.skip_to(self._epoch_end(start))

    def _forget_unconfirmed(self) -> None:
        if self._unconfirmed is not None:
            self._unconfirmed.forget()


class ValidationDataloader(MosaicParallelAwareDataloader):
    """The same pass in every iteration: epoch 0 from its first sample, padded at its end.

    Every rank gets equally many batches, and no iteration changes what the next one yields.
    """

    _same_pass = True

    def __init__(self, dataset: StreamingTextDataset, **options: Any):
        if options.get("skip_samples"):
            raise MosaicDataError(
                "skip_samples is for training: a validation pass is always the whole one; remove it"
            )
        super().__init__(dataset, **options, infinite=False, drop_last=False)

    def _start(self) -> int:
        return 0

    def _counting(self) -> Callable[[Mark], None]:
        """A validation pass leaves no trace."""
        return lambda mark: None

    def _pass_ended(self, start: int) -> None:
        """Likewise."""


def _ready(
    read: Iterator[_Read],
    books: Bookkeeping,
    mark: Mark,
    pin: Callable[[torch.Tensor], torch.Tensor],
    store: ShardStore,
    after_first: Callable[[], None],
) -> Iterator[tuple[Rows, Mark]]:
    """Batches as they are handed out.

    What stands in the books after each is worked out here, in the background, and from labels that
    nobody has changed yet.
    """
    with store.iterating():
        for number, (request, inputs, labels, targets) in enumerate(read):
            mark = books.after(mark, request, targets)
            yield ({"input": pin(inputs)}, pin(labels)), mark
            # Not before: a thread that was given up is not asked for more.
            books.drop_passed_marks()
            if not number:
                after_first()


def _check(dp_rank: int, dp_world_size: int, batch_size: int, num_nodes: int) -> None:
    for name, value in (
        ("dp_world_size", dp_world_size),
        ("batch_size", batch_size),
        ("num_nodes", num_nodes),
    ):
        integer(name, value, 1)
    if integer("dp_rank", dp_rank, 0) >= dp_world_size:
        raise MosaicDataError(f"dp_rank = {dp_rank} is not among {dp_world_size} ranks")
