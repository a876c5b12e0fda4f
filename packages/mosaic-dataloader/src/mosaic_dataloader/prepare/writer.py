"""One split on its way into shards."""

import copy
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import Position
from mosaic_dataloader.prepare.counts import Counts
from mosaic_dataloader.prepare.encode import Result
from mosaic_dataloader.prepare.hashes import hash_of
from mosaic_dataloader.prepare.journal import Cursor, Entry, Journal
from mosaic_dataloader.prepare.mds import ShardFormat
from mosaic_dataloader.prepare.rows import Buffer, Sizes
from mosaic_dataloader.prepare.targets import Target

# Shards that are compressed, hashed and put away at a time.
SHARDS_UNDER_WAY = 3


@dataclass
class _Taken:
    """A block that was taken in, and how much of it is in shards."""

    position: Position
    total: int
    done: int
    counts: Counts


class SplitWriter:
    """Collects one split's parts of the blocks, and writes and notes its shards.

    Args:
        split: Its name; empty where the data set is not split.
        buffer: Where parts are collected.
        shards: Their format.
        target: Where they go.
        threads: Compress, hash and write them.
        journal: Notes them; what it holds already is gone on from.
        skip: Units to leave out at the very beginning.

    Attributes:
        split: Its name.
        start: The first block that it needs.
        ended: Whether it needs none.
    """

    def __init__(
        self,
        split: str,
        buffer: Buffer,
        shards: ShardFormat,
        target: Target,
        threads: ThreadPoolExecutor,
        journal: Journal,
        skip: int,
    ):
        self.split = split
        self._buffer = buffer
        self._shards = shards
        self._target = target
        self._threads = threads
        self._journal = journal
        noted = [entry for entry in journal.entries if entry.split == split]
        cursor = noted[-1].cursor if noted else Cursor((0,), skip)
        self.start, self.ended = cursor.position, cursor.ended
        self._skip = cursor.units
        self._counts = copy.copy(cursor.counts)
        self._index = [entry.shard for entry in noted]
        self._number = len(noted)
        self._taken: deque[_Taken] = deque()
        self._under_way: deque[tuple[Future[dict[str, Any]], Cursor]] = deque()

    def wants(self, position: Position) -> bool:
        """Whether it needs a block."""
        return not self.ended and position >= self.start

    def add(self, result: Result) -> None:
        """Take in its part of a block.

        Raises:
            MosaicDataError: A shard cannot be written.
        """
        part = result.parts.get(self.split)
        if part is None:
            return
        skip = min(self._skip, self._buffer.units(part))
        self._skip -= skip
        total = self._buffer.append(part, skip)
        self._taken.append(_Taken(result.position, total, skip, part.counts))
        while (shard := self._buffer.take(last=False)) is not None:
            self._send(*shard, ended=False)
        self._settle(SHARDS_UNDER_WAY)

    def finish(self) -> tuple[list[dict[str, Any]], Counts]:
        """Write what is left.

        Returns:
            The shards, as the index holds them, and what was met in all.

        Raises:
            MosaicDataError: A shard cannot be written.
        """
        total = copy.copy(self._counts)
        for block in self._taken:
            total.add(block.counts)
        shard = self._buffer.take(last=True)
        while shard is not None:
            following = self._buffer.take(last=True)
            if following is None:
                self._counts, self._taken = total, deque()
            self._send(*shard, ended=following is None)
            shard = following
        self._settle(0)
        return self._index, total

    def _send(self, samples: bytes, sizes: Sizes, units: int, *, ended: bool) -> None:
        cursor = self._advance(units, ended)
        future = self._threads.submit(self._write, self._number, samples, sizes)
        self._number += 1
        self._under_way.append((future, cursor))
        self._settle(SHARDS_UNDER_WAY)

    def _advance(self, units: int, ended: bool) -> Cursor:
        """Where to go on after so many units more."""
        if ended:
            return Cursor(self.start, 0, copy.copy(self._counts), True)
        while units > self._taken[0].total - self._taken[0].done:
            block = self._taken.popleft()
            units -= block.total - block.done
            self._counts.add(block.counts)
        block = self._taken[0]
        block.done += units
        return Cursor(block.position, block.done, copy.copy(self._counts))

    def _settle(self, allowed: int) -> None:
        """Note finished shards, in order, and wait until no more than so many are under way."""
        while self._under_way and (len(self._under_way) > allowed or self._under_way[0][0].done()):
            future, cursor = self._under_way.popleft()
            try:
                shard = future.result()
            except OSError as error:
                raise MosaicDataError(
                    f"prepare: cannot write {self._target.name}: {error.strerror or error}; make "
                    f"room or mend it, and run the same command again to go on"
                ) from error
            self._index.append(shard)
            self._journal.append(Entry(self.split, shard, cursor))

    def _write(self, number: int, samples: bytes, sizes: Sizes) -> dict[str, Any]:
        """Put one shard in its place, in a thread."""

        def info(name: str, data: bytes) -> dict[str, Any]:
            hashes = {kind: hash_of(kind, data) for kind in self._shards.hashes}
            return {"basename": name, "bytes": len(data), "hashes": hashes}

        raw_name, packed_name = self._shards.names(number)
        data = self._shards.pack(samples, sizes)
        raw, packed = info(raw_name, data), None
        if packed_name is not None:
            from streaming.base.compression import compress

            data = compress(self._shards.compression, data)
            packed = info(packed_name, data)
        prefix = f"{self.split}/" if self.split else ""
        self._target.save(prefix + (packed_name or raw_name), data)
        return {
            "samples": len(sizes),
            "raw_data": raw,
            "zip_data": packed,
            **self._shards.config,
        }
