"""Rows packed of documents."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import Layout
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.sequence import EpochStart
from mosaic_dataloader.packing.batches import LeftOut, PackedBatch, RowPacker
from mosaic_dataloader.packing.lane import Lane, LanePosition, Segment
from mosaic_dataloader.packing.lanes import Lanes, check_lanes, default_lanes, residue_of_rank
from mosaic_dataloader.packing.scheduler import DocumentScheduler
from mosaic_dataloader.reading.document_length import mean_tokens, rows_of_epoch
from mosaic_dataloader.reading.origins import DocumentOrigin, PreviewRow, sample_fields
from mosaic_dataloader.reading.rows import RowBatch
from mosaic_dataloader.reading.vocabulary import outside_error
from mosaic_dataloader.reading.workers import Fetch, ReadAhead
from mosaic_dataloader.sources.common import open_sequence, samples_ahead, shards_ahead
from mosaic_dataloader.sources.documents import (
    DocumentRequests,
    fetch_documents,
    read_by_workers,
    read_here,
)
from mosaic_dataloader.state.identity import PROBED_IN_LANE, probe
from mosaic_dataloader.state.progress import EpochPass, Progress, RunOrder
from mosaic_dataloader.state.saved import KEY, SavedLane, SavedState, lane_key
from mosaic_dataloader.state.stages import Reached
from mosaic_dataloader.storage.lookahead import LaneLookAhead

# Epochs of few documents are passed quickly, and not by all lanes at once.
_KEPT_SAMPLES = 1 << 21
# With stages, positions between the slowest lane and the fastest, at the most.
_KEPT_POSITIONS = 1 << 22
# Tokens in a request, more or less: enough documents for all of a tokenizer's threads, and few
# enough that a batch does not wait for long.
_BLOCK_TOKENS = 1 << 17
# Stored tokens are copied one document at a time; a request costs as much as some of them.
_FEWEST, _MOST = 8, 512
# Rows between two reports of how far a preview's reading is.
_REPORTED = 1000


class PackedRows:
    """Batches whose rows are packed of documents; the attributes are those of `SampleRows`.

    The run's position counts rows, which all ranks know; documents are counted lane by lane. So
    those that the run skipped at its start are not in its position.

    Raises:
        MosaicDataError: The ranks do not divide the lanes.
    """

    length_known = False
    unit = "document"

    def __init__(self, dataset: StreamingTextDataset, layout: Layout, order: RunOrder):
        self.dataset = dataset
        self.layout = layout
        count = order.lanes or dataset.options.packing_lanes or default_lanes(layout.world_size)
        check_lanes(count, layout.world_size, saved=order.lanes is not None)
        self._lane_count = count
        self._residue = self._residue_of(layout.rank)
        self.order = replace(order, lanes=count)
        self.mixture = dataset.weighed(order.means)
        self.counts_all_ranks = layout.world_size == 1
        self.first_position = order.start.samples
        length = self.mixture.epoch_samples
        # Positions of documents count from where the order begins: rows do not determine them.
        self.sequence = open_sequence(
            dataset,
            self.mixture,
            order,
            EpochStart(0, order.start.epoch),
            kept_epochs=max(4, min(2 + 4 * count // length, _KEPT_SAMPLES // length)),
            kept_positions=_KEPT_POSITIONS,
        )
        # The entries of the lanes in the state that was loaded, of other ranks too.
        self._loaded: dict[str, Any] = {}
        self._loaded_at = 0

    @cached_property
    def _lanes(self) -> Lanes:
        """The lanes of the run."""
        nodes = self.order.options.num_canonical_nodes
        if self.order.stages is not None:
            # A position is every node's: lane l takes those that are l modulo the lanes.
            nodes = 1
        return Lanes(self._lane_count, self.mixture.epoch_samples, nodes)

    @cached_property
    def _own_lanes(self) -> list[int]:
        """The lanes of this rank, ascending."""
        return list(range(self._residue, self._lane_count, self.layout.world_size))

    def _residue_of(self, rank: int) -> int:
        nodes = self.dataset.options.num_canonical_nodes
        return residue_of_rank(rank, self.layout.world_size, nodes)

    def check(self, extent: EpochPass | None) -> None:
        """See that the data suffice for the canonical nodes, and what is left out for the lanes.

        A batch takes its rows from lanes in turn, under every layout. It still does after rows that
        are left out if each lane leaves out equally many.

        Raises:
            MosaicDataError: They do not.
        """
        self.sequence.check()
        lanes = self._lane_count
        for start, stop in self.order.skip.ranges:
            if stop > self.order.start.samples and (stop - start) % lanes:
                raise MosaicDataError(
                    f"skip leaves out rows {start:,} to {stop:,}; with packing their number must "
                    f"be a multiple of the {lanes} packing lanes, so that each lane leaves out "
                    f'equally many: use "{start}:{stop + (start - stop) % lanes}"'
                )

    def begin(self) -> Progress:
        """The progress of a run before its first batch."""
        none = np.zeros(len(self.mixture.streams), np.int64)
        return Progress(0, none, none, {})

    def resume(self, saved: SavedState, state: Mapping[str, Any]) -> Progress:
        """The progress that was saved; ``state`` holds the entries of at least this rank's lanes.

        Raises:
            MosaicDataError: The state lacks one of these lanes, or one is not of this run.
        """
        self.sequence.check()
        for lane in range(self._residue, self._lane_count, self.layout.world_size):
            # Before a list is made of them: a state may name any number of lanes.
            _require_lane(state, lane)
        own = {n: self._saved_lane(state, n, saved.samples_seen) for n in self._own_lanes}
        none = np.zeros(len(self.mixture.streams), np.int64)
        lanes = {n: self._lane_position(n, lane) for n, lane in own.items()}
        keys = map(lane_key, range(self._lane_count))
        self._loaded = {key: state[key] for key in keys if key in state}
        self._loaded_at = saved.samples_seen
        return Progress(saved.samples_seen, np.array(saved.seen, np.int64), none, lanes)

    def follows(self, saved: SavedState, state: Mapping[str, Any], progress: Progress) -> bool:
        """Whether the order gives the documents that the saved run would have seen next."""
        lanes = [self._saved_lane(state, n, saved.samples_seen) for n in self._own_lanes]
        if all(lane.probe is None for lane in lanes):
            return True
        present = self._probes(self._positions(progress))
        return all(
            None in (lane.probe, own) or lane.probe == own
            for lane, own in zip(lanes, present, strict=True)
        )

    def reached(self, saved: SavedState, state: Mapping[str, Any]) -> Reached | None:
        """Where the slowest and the fastest lane are; None unless those of all ranks are there."""
        if len(self._loaded) < self._lane_count:
            return None
        lanes = [self._saved_lane(state, n, saved.samples_seen) for n in range(self._lane_count)]
        return Reached(
            min(lane.position for lane in lanes),
            max(lane.position + (lane.offset > 0) for lane in lanes),
            tuple(lane.position for lane in lanes),
        )

    def fetch(self, dataset: StreamingTextDataset) -> Fetch:
        """What reads documents in a worker process."""
        return partial(fetch_documents, dataset)

    def batches(
        self, progress: Progress, extent: EpochPass | None, ahead: ReadAhead
    ) -> Iterator[tuple[RowBatch, Progress]]:
        """See `SampleRows.batches`."""
        predownload = samples_ahead(self.dataset, self.layout.batch_size)
        packed = self._packed(progress, extent, ahead, predownload)
        return self._batches(progress, packed)

    def _batches(
        self, progress: Progress, packed: Iterator[PackedBatch]
    ) -> Iterator[tuple[RowBatch, Progress]]:
        for batch in packed:
            rows = batch.rows * self.layout.world_size
            progress = Progress(
                self.order.skip.after(progress.samples_seen, rows),
                progress.seen,
                progress.targets + batch.targets,
                {**progress.lanes, **batch.lanes},
            )
            inputs, labels = torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels)
            full = int(batch.targets.sum()) == batch.labels.size
            yield RowBatch(inputs, labels, full, batch.ends), progress

    def pass_ended(self, begun: Progress, last: Progress) -> Progress:
        """With each lane at its first document after the epoch; those left out count as seen."""
        lanes = dict(last.lanes)
        ends = self._ends(begun, EpochPass(drop_last=True))
        for lane, position, end in zip(self._own_lanes, self._positions(last), ends, strict=True):
            if position.document >= end:
                continue
            documents = np.arange(position.document, end, dtype=np.int64)
            ids = self._locate(np.full(len(documents), lane, np.int64), documents)
            counts = self.mixture.count_per_stream(ids[None])[0]
            finished = counts + np.array(position.finished or 0, np.int64)
            lanes[lane] = LanePosition(end, 0, tuple(finished.tolist()))
        return last._replace(lanes=lanes)

    def rows(self, progress: Progress) -> int:
        """Rows that all ranks together were handed."""
        return progress.samples_seen - self.order.skip.before(progress.samples_seen)

    def samples(self, progress: Progress) -> Int64Array:
        """Documents of this rank's lanes that were handed out to their ends, int64[streams]."""
        total = np.zeros(len(self.mixture.streams), np.int64)
        for lane in progress.lanes.values():
            if lane.finished:
                total += np.array(lane.finished, np.int64)
        return total

    def position(self, progress: Progress) -> int:
        """Documents of the order drawn so far, by how far this rank's lanes are on average."""
        read = sum(position.document for position in self._positions(progress))
        return read * self._lane_count // len(self._own_lanes)

    def epochs(self, progress: Progress) -> tuple[int, float]:
        """The epoch of the rank's slowest lane, and how far its lanes are on average, in epochs."""
        read = sum(position.document for position in self._positions(progress))
        share = len(self._own_lanes) / self._lane_count
        mean = self.order.start.epoch + read / (share * self.mixture.epoch_samples)
        return self._slowest_epoch(progress), mean

    def describe(self, position: int) -> str:
        """A position in words."""
        return f"row {position:,} of the run"

    def epoch_rows(self) -> int:
        """Rows in an epoch, about, by the sizes in the indexes."""
        return rows_of_epoch(self.dataset.streams, self.mixture, self.dataset.seq_len)

    def probe(self, progress: Progress) -> str | None:
        """None: rows do not determine documents, and each lane has its own."""
        return None

    def save_lanes(self, progress: Progress) -> dict[str, str]:
        """The entries of a checkpoint that hold this rank's lanes."""
        begun = progress.samples_seen > self.first_position
        if self.order.stages is not None and not begun and self.layout.world_size > 1:
            # Those of all ranks, which are at their beginnings. torch loads what is saved here:
            # a change of stages takes that every rank knows how far all lanes are.
            walk = PackedRows(self.dataset, Layout(0, 1, 1), self.order)
            return walk.save_lanes(progress)
        own = self._positions(progress)
        lanes = np.array(self._own_lanes, np.int64)
        places = self._lanes.positions(lanes, np.array([p.document for p in own], np.int64))
        probes = self._probes(own) if begun else [None] * len(own)
        none = (0,) * len(self.mixture.streams)
        return {
            lane_key(lane): SavedLane(
                place, position.offset, position.finished or none, progress.samples_seen, probed
            ).to_json()
            for lane, place, position, probed in zip(
                self._own_lanes, places.tolist(), own, probes, strict=True
            )
        }

    def preview(
        self, progress: Progress, position: int, report: Callable[[int, int], None] | None = None
    ) -> Generator[PreviewRow, None, None]:
        """Rows of the run in their order.

        Which documents a row holds follows from the lengths of all before it. So the lanes are read
        from the last row before ``position`` at which all of them are known, which costs what
        training's own reading of these rows costs. That row is the present one on a single rank,
        that of a loaded state that held the lanes of all ranks, or else the order's first.

        ``report`` is called every thousand rows, and at the last one, with the rows read and the
        rows to read before ``position`` is reached. Global batches are counted from there.

        Raises:
            MosaicDataError: The position lies before the present order, a loaded lane is damaged,
                or the data cannot be read.
        """
        begin, lanes = self._known_lanes(progress, position)
        dataset, world_size = self.dataset, self.layout.world_size
        # A single rank that reads all lanes.
        walk = PackedRows(dataset, Layout(0, 1, 1), self.order)
        ranks = {self._residue_of(rank): rank for rank in range(world_size)}
        dataset.store.register()
        predownload = samples_ahead(dataset, self.layout.batch_size) if begin < position else 0
        start = Progress(begin, progress.seen, progress.targets, lanes)
        packed = walk._packed(start, None, ReadAhead(), predownload, segments=True)
        number, shown = begin - 1, 0
        for batch in packed:
            number, _ = self.order.skip.stretch(number + 1)
            if number < position:
                read = number + 1 - begin
                if report and (read % _REPORTED == 0 or number + 1 == position):
                    report(read, position - begin)
                continue
            ((lane, segments),) = batch.segments
            row = shown % self.layout.global_batch // world_size
            shown += 1
            rank = ranks[lane % world_size]
            inputs, labels = torch.from_numpy(batch.inputs[0]), torch.from_numpy(batch.labels[0])
            yield PreviewRow(
                position=number,
                rank=rank,
                row=row,
                origins=tuple(self._origins(lane, segments, number, rank, row)),
                counts=batch.targets,
                read=partial(_same, (inputs, labels)),
                lane=lane,
            )

    def reads(self, position: int, batches: int, ranks: Sequence[int]) -> Iterator[Int64Array]:
        """Sample ids that ranks read for each global batch, if documents are of mean length."""
        world_size, size = self.layout.world_size, self.layout.global_batch
        own = [self._residue_of(rank) for rank in ranks]
        per_row = self.dataset.seq_len / mean_tokens(self.dataset.streams, self.mixture)
        for _ in range(batches):
            # Rows that are left out have their documents read nevertheless.
            begin, position = position, self.order.skip.stretches(position, size)[-1][1]
            rows = np.arange(begin, position, dtype=np.int64) - self.order.start.samples
            rows = rows[np.isin(rows % self._lane_count % world_size, own)]
            lanes, made = rows % self._lane_count, rows // self._lane_count
            # A document that two rows share is read for both: its shard is the same.
            begins = (made * per_row).astype(np.int64)
            counts = ((made + 1) * per_row).astype(np.int64) - begins + 1
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            starts = np.array([self._first_position(lane).document for lane in lanes.tolist()])
            documents = np.repeat(starts + begins, counts) + within
            yield self._locate(np.repeat(lanes, counts), documents)

    def stream_counts(self, progress: Progress, position: int, batches: int) -> Int64Array:
        """Target tokens of each stream in the global batches from a position on; they are read."""
        size = self.layout.global_batch
        rows = self.preview(progress, position)
        counts = np.stack([next(rows).counts for _ in range(batches * size)])
        total: Int64Array = counts.reshape(batches, size, -1).sum(axis=1)
        return total

    # ------------------------------------------------------------------------------------- reading

    def _packed(
        self,
        progress: Progress,
        extent: EpochPass | None,
        ahead: ReadAhead,
        predownload: int,
        *,
        segments: bool = False,
    ) -> Iterator[PackedBatch]:
        dataset, mixture = self.dataset, self.mixture
        positions = self._positions(progress)
        ends: Sequence[int | None] = [None] * len(positions)
        if extent:
            ends = self._ends(progress, extent)
        lanes = [
            Lane(number, position, end, len(mixture.streams), self._outside, dataset.vocab_size)
            for number, position, end in zip(self._own_lanes, positions, ends, strict=True)
        ]
        first = self._first_lane(progress)
        mean = max(1.0, mean_tokens(dataset.streams, mixture))
        block = int(min(_MOST, max(_FEWEST, _BLOCK_TOKENS / mean)))
        block_rows = int(block * mean) // dataset.seq_len + 1
        scheduler = DocumentScheduler(
            lanes,
            first=first,
            seq_len=dataset.seq_len,
            mean=mean,
            block=block,
            # Enough for what workers have under way, and as much again for those that wait for it.
            ahead=max(2 * self.layout.batch_size, 2 * (ahead.requests + 1) * block_rows),
        )
        requests = DocumentRequests(mixture, self._locate, lanes, scheduler)
        # The workers start here, and not when the first batch is asked for.
        answers = ahead.ask(iter(requests))
        if answers is None:
            arrivals = read_here(dataset, requests)
        else:
            arrivals = read_by_workers(answers, requests)
        packer = RowPacker(
            lanes,
            scheduler,
            arrivals,
            batch_size=self.layout.batch_size,
            seq_len=dataset.seq_len,
            pad_id=dataset.pad_id,
            streams=len(mixture.streams),
            first=first,
            most_empty=mixture.epoch_samples,
            segments=segments,
            boundaries=dataset.boundaries,
            left_out=self._rows_left_out(progress),
        )
        order = [*range(first, len(lanes)), *range(first)]
        starts = {index: positions[index].document for index in order}
        batches = packer.batches(
            drop_last=bool(extent and extent.drop_last),
            at_least_one=bool(extent and extent.repeated),
        )
        return self._ahead_of(batches, requests, starts, ends, predownload)

    def _ahead_of(
        self,
        batches: Iterator[PackedBatch],
        requests: DocumentRequests,
        starts: Mapping[int, int],
        ends: Sequence[int | None],
        predownload: int,
    ) -> Iterator[PackedBatch]:
        """The batches, with shards fetched ahead of them."""
        if not self.dataset.store.fetches or not predownload:
            yield from batches
            return
        # Its threads start here, after the workers: a process is forked while nothing else runs.
        requests.look_ahead = LaneLookAhead(
            self.dataset.store,
            requests.shards_of,
            starts,
            ends,
            per_lane=-(-predownload // len(ends)),
            most_shards=shards_ahead(self.dataset),
        )
        try:
            yield from batches
        finally:
            requests.look_ahead.close()

    def _outside(self, lane: int, document: int, token_id: int) -> MosaicDataError:
        ids = self._locate(np.array([lane], np.int64), np.array([document], np.int64))
        shards, places = self.mixture.locate(ids)
        return outside_error(
            self.dataset.streams,
            self.mixture,
            self.dataset.vocab_size,
            int(shards[0]),
            int(places[0]),
            token_id,
        )

    def _origins(
        self, lane: int, segments: list[Segment], number: int, rank: int, row: int
    ) -> Iterator[DocumentOrigin]:
        lanes = np.full(len(segments), lane, np.int64)
        documents = np.array([segment.document for segment in segments], np.int64)
        fields = sample_fields(self.dataset.streams, self.mixture, self._locate(lanes, documents))
        positions = self._lanes.positions(lanes, documents).tolist()
        epochs = [int(self.sequence.epochs(at, at + 1)[0]) for at in positions]
        for segment, sample, position, epoch in zip(
            segments, fields, positions, epochs, strict=True
        ):
            yield DocumentOrigin(
                number,
                rank,
                row,
                epoch=epoch,
                document=position,
                begin=segment.begin,
                offset=segment.offset,
                tokens=segment.tokens,
                length=segment.length,
                **sample,
            )

    # --------------------------------------------------------------------------------------- lanes

    def _positions(self, progress: Progress) -> list[LanePosition]:
        """Where each of the rank's lanes continues."""
        lanes = progress.lanes
        return [lanes.get(lane) or self._first_position(lane) for lane in self._own_lanes]

    def _first_position(self, lane: int) -> LanePosition:
        """Where a lane begins; an order that began in mid-run begins with a whole epoch."""
        if not self.order.skipped or self.order.start != EpochStart():
            return LanePosition()
        return LanePosition(self._lanes.first_from(lane, self.order.skipped))

    def _first_lane(self, progress: Progress) -> int:
        """Index, among the rank's lanes, of the one that its next row comes from."""
        world_size = self.layout.world_size
        row = progress.samples_seen + (self._residue - progress.samples_seen) % world_size
        return row % self._lane_count // world_size

    def _rows_left_out(self, progress: Progress) -> list[LeftOut]:
        """Rows of this rank's lanes that are left out from a progress on.

        Worked example: 2 ranks with 2 rows each, 4 lanes, ``skip = ["7:15"]`` and position 0. The
        first two batches are rows 0 to 3, and 4, 5, 6 and 15. The rank with the even lanes hands
        out rows 4 and 6 in the second batch and leaves out 8, 10, 12 and 14 at its end; the other
        one leaves out 7, 9, 11 and 13 between 5 and 15. So at the end of a batch all lanes have
        left out what lies before the run's position.
        """
        skip, layout, position = self.order.skip, self.layout, progress.samples_seen
        found = []
        for start, stop in skip.ranges:
            if start >= position:
                rows = start - position - (skip.before(start) - skip.before(position))
                batch = rows // layout.global_batch
                # The rank's first row, and so its rows among those handed out before.
                first = (self._residue - position) % layout.world_size
                own = max(0, -(-(rows - first) // layout.world_size))
                row = own - batch * layout.batch_size
                found.append(LeftOut(batch, row, (stop - start) // layout.world_size))
        return found

    def _slowest_epoch(self, progress: Progress) -> int:
        """The epoch of the rank's slowest lane; with stages that of the whole run."""
        documents = np.array([p.document for p in self._positions(progress)], np.int64)
        positions = self._lanes.positions(np.array(self._own_lanes, np.int64), documents)
        return self.sequence.locate(int(positions.min()))[0]

    def _ends(self, progress: Progress, extent: EpochPass) -> list[int]:
        """The document at which each of the rank's lanes ends: with the slowest one's epoch.

        A pass that is repeated reads the first epoch, of which some ranks may have no document.
        """
        slowest = 0 if extent.repeated else self._slowest_epoch(progress) - self.order.start.epoch
        end = (slowest + 1) * self.mixture.epoch_samples
        return [self._lanes.first_from(lane, end) for lane in self._own_lanes]

    def _known_lanes(
        self, progress: Progress, position: int
    ) -> tuple[int, Mapping[int, LanePosition]]:
        """The last row, up to ``position``, at which all lanes are known, and where they are."""
        begin = self.order.start.samples
        if position < begin:
            raise MosaicDataError(
                f"row {position} lies before row {begin}, where the present order begins; ask for "
                f"a later one"
            )
        lanes: Mapping[int, LanePosition] = {}
        if self._loaded_at <= position and len(self._loaded) == self._lane_count:
            begin = self._loaded_at
            lanes = {
                n: self._lane_position(n, self._saved_lane(self._loaded, n, begin))
                for n in range(self._lane_count)
            }
        if self.layout.world_size == 1 and begin <= progress.samples_seen <= position:
            begin, lanes = progress.samples_seen, progress.lanes
        return begin, lanes

    def _locate(self, lanes: Int64Array, documents: Int64Array) -> Int64Array:
        """Sample ids, int64[n], of lanes' documents; see `Lanes.positions`."""
        positions = self._lanes.positions(lanes, documents)
        if not len(positions):
            return positions
        self.sequence.prepare_next(int(positions.max()))
        return self.sequence.ids_at(positions)

    def _probes(self, positions: Sequence[LanePosition]) -> list[str | None]:
        """The probes of this rank's lanes, where they stand at ``positions``."""
        lanes = np.repeat(np.array(self._own_lanes, np.int64), PROBED_IN_LANE)
        first = np.array([position.document for position in positions], np.int64)[:, None]
        documents = first + np.arange(PROBED_IN_LANE)
        found = self._lanes.positions(lanes, documents.ravel()).reshape(documents.shape)
        return [probe(ids) for ids in self.sequence.probe_ids(found)]

    def _saved_lane(self, state: Mapping[str, Any], lane: int, samples_seen: int) -> SavedLane:
        key = _require_lane(state, lane)
        stages = self.order.stages
        carried = stages.carried if stages else ()
        counted = stages.carried_from if stages and carried else len(self.mixture.streams)
        saved = SavedLane.from_json(key, state[key], counted)
        if saved.samples_seen != samples_seen:
            raise MosaicDataError(
                f"the saved data state's {key} was saved after {saved.samples_seen:,} rows and its "
                f'"{KEY}" after {samples_seen:,}; take both from the same checkpoint'
            )
        if not carried:
            return saved
        # By the streams that are in the data now.
        finished = (0 if n is None else saved.finished[n] for n in carried)
        return replace(saved, finished=tuple(finished))

    def _lane_position(self, lane: int, saved: SavedLane) -> LanePosition:
        document = self._lanes.document(lane, saved.position)
        return LanePosition(document, saved.offset, saved.finished)


def _same(row: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return row


def _require_lane(state: Mapping[str, Any], lane: int) -> str:
    """The key of a lane that a state holds.

    Raises:
        MosaicDataError: It does not.
    """
    key = lane_key(lane)
    if key not in state:
        raise MosaicDataError(
            f"the saved data state has no {key}, a lane of this rank: every rank saves its own "
            f"lanes, so join the states of all ranks, as torch.distributed.checkpoint does"
        )
    return key
