"""Data sets by name, streamed with Hugging Face `datasets`."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import BLOCK_BYTES, Block, Position, Reading, Texts
from mosaic_dataloader.prepare.corpus.opening import reason
from mosaic_dataloader.prepare.corpus.parquet import check_columns, texts_of

_BATCH_ROWS = 256


@dataclass(frozen=True)
class HubName:
    """What `datasets.load_dataset` is called with.

    Attributes:
        name: Name on the hub, or a directory.
        config: Name of its configuration.
        split: Which split.
        kwargs: Further keywords.
    """

    name: str
    config: str | None = None
    split: str = "train"
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As messages call it."""
        return f"data set {self.name!r}" + (f" ({self.config})" if self.config else "")


class HubCorpus:
    """See `Corpus`. Blocks are numbered within the data set's own shards.

    Args:
        hub: Which data set.
        reading: Which columns.

    Raises:
        MosaicDataError: `datasets` is not installed, the data set cannot be loaded, or lacks a
            column.
    """

    def __init__(self, hub: HubName, reading: Reading):
        self._hub = hub
        self._reading = reading
        self._stream, stamp = _load(hub)
        names = self._stream.column_names
        if names is None:
            names = list(next(iter(self._stream), {}))
        for column in reading.columns:
            if column not in names:
                raise MosaicDataError(
                    f"prepare: {hub} has no column {column!r}; it has {', '.join(names)} "
                    f"(choose with text_columns)"
                )
        described = [hub.name, hub.config, hub.split, self._stream.num_shards, sorted(names)]
        self.fingerprint = json.dumps(described)
        self.stamp = f"{self.fingerprint} {stamp}"
        splits = getattr(self._stream.info, "splits", None) or {}
        self.total = getattr(splits.get(hub.split), "num_bytes", None) or None

    def blocks(self, start: Position) -> Iterator[Block]:
        """See `Corpus`."""
        stream = self._stream.select_columns(list(self._reading.columns))
        for shard in range(start[0], stream.num_shards):
            part = stream.shard(num_shards=stream.num_shards, index=shard)
            for block in self._shard(part.with_format("arrow"), shard):
                if block.position >= start:
                    yield block

    def size_before(self, position: Position) -> int:
        """See `Corpus`; shards count as equally large."""
        return (self.total or 0) * position[0] // max(len(self), 1)

    def __len__(self) -> int:
        """See `Corpus`."""
        return int(self._stream.num_shards)

    def _shard(self, part: Any, shard: int) -> Iterator[Block]:
        name = f"{self._hub}, shard {shard}"
        held: list[bytes] = []
        size, first, chunk = 0, 1, 0
        try:
            for table in part.iter(batch_size=_BATCH_ROWS):
                check_columns(name, table.schema, self._reading)
                texts = texts_of(table, self._reading)
                held += texts
                size += sum(map(len, texts))
                if size >= BLOCK_BYTES:
                    yield Texts((shard, chunk), size, name, first, held, self._reading)
                    first, chunk = first + len(held), chunk + 1
                    held, size = [], 0
        except MosaicDataError:
            raise
        except Exception as error:
            # Its builders, and the stores behind them, raise errors of every kind.
            raise MosaicDataError(f"prepare: cannot read {name}: {reason(error)}") from error
        yield Texts((shard, chunk), size, name, first, held, self._reading)


def _load(hub: HubName) -> tuple[Any, str]:
    """The data set, and what changes when its files do, as far as its store tells."""
    try:
        import datasets
    except ImportError as error:
        raise MosaicDataError(
            f"prepare: {hub} needs Hugging Face datasets; install mosaic-dataloader[prepare]"
        ) from error
    try:
        if os.path.isfile(os.path.join(hub.name, "state.json")) or os.path.isfile(
            os.path.join(hub.name, "dataset_dict.json")
        ):
            return _from_disk(datasets, hub)
        # What `load_dataset(…, streaming=True)` does; the builder knows the files' revision.
        builder = datasets.load_dataset_builder(hub.name, hub.config, **hub.kwargs)
        files = getattr(builder.config, "data_files", None) or {}
        stamp = [
            getattr(files.get(name), "origin_metadata", None) for name in sorted(files, key=str)
        ]
        return builder.as_streaming_dataset(split=hub.split), json.dumps([builder.hash, stamp])
    except MosaicDataError:
        raise
    except Exception as error:
        # As above.
        raise MosaicDataError(f"prepare: cannot load {hub}: {reason(error)}") from error


def _from_disk(datasets: Any, hub: HubName) -> tuple[Any, str]:
    """What `save_to_disk` wrote."""
    found = datasets.load_from_disk(hub.name, **hub.kwargs)
    if isinstance(found, datasets.DatasetDict):
        if hub.split not in found:
            raise MosaicDataError(
                f"prepare: {hub} has no split {hub.split!r}; it has {', '.join(found)} (choose "
                f"with dataset_split)"
            )
        found = found[hub.split]
    files = [file["filename"] for file in found.cache_files]
    stamp = json.dumps([[os.path.getsize(file), os.stat(file).st_mtime_ns] for file in files])
    return found.to_iterable_dataset(num_shards=max(len(files), 1)), stamp
