"""Hugging Face data sets, by name or as `save_to_disk` wrote them."""

import itertools
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare.documents import (
    DatasetName,
    Document,
    NotADocumentError,
    Piece,
    ReadOptions,
)
from mosaic_prepare.inputs import InputFile
from mosaic_prepare.opening import CannotReadError, reason
from mosaic_prepare.tables import check_columns, rows_of

_BATCH_ROWS = 256


def dataset_pieces(options: ReadOptions) -> list[Piece]:
    """The parts of a data set: all rows of one that is on disk, shards of one that is streamed."""
    name = options.dataset
    assert name is not None
    data, stamp = _loaded(json.dumps([name.name, name.config, name.split, dict(name.kwargs)]))
    try:
        names = data.column_names or list(next(iter(data), {}))
        check_columns(pyarrow.schema([(one, pyarrow.string()) for one in names]), options)
    except NotADocumentError as error:
        raise MosaicDataError(f"prepare: {name} {error}") from None
    except Exception as error:
        # Its builders, and the stores behind them, raise errors of every kind.
        raise CannotReadError(f"prepare: cannot read {name}: {reason(error)}") from error
    if _on_disk(name):
        file = InputFile(str(name), name.name, int(data.data.nbytes), stamp)
        return [Piece(file, "dataset", 0, len(data))]
    splits = getattr(data.info, "splits", None) or {}
    total = getattr(splits.get(name.split or "train"), "num_bytes", None) or 0
    shards = int(data.num_shards)
    files = (
        InputFile(f"{name}, shard {number}", name.name, total // shards, stamp)
        for number in range(shards)
    )
    return [Piece(file, "dataset", i, i + 1) for i, file in enumerate(files)]


def read_dataset(piece: Piece, options: ReadOptions) -> Iterator[Document]:
    """Documents of a part of a data set."""
    name = options.dataset
    assert name is not None
    try:
        data, _ = _loaded(json.dumps([name.name, name.config, name.split, dict(name.kwargs)]))
        data = data.select_columns(list(options.columns))
        first = 1
        if _on_disk(name):
            data = data.select(range(piece.start, piece.stop or piece.start))
            first += piece.start
        else:
            data = data.shard(num_shards=data.num_shards, index=piece.start)
        for table in data.with_format("arrow").iter(batch_size=_BATCH_ROWS):
            check_columns(table.schema, options)
            yield from rows_of([table], piece, options, itertools.count(first))
            first += table.num_rows
    except (MosaicDataError, NotADocumentError):
        raise
    except Exception as error:
        # As above.
        raise CannotReadError(f"prepare: cannot read {piece.file.name}: {reason(error)}") from error


def _on_disk(name: DatasetName) -> bool:
    """Whether it is what `save_to_disk` wrote."""
    files = ("state.json", "dataset_dict.json")
    return any(os.path.isfile(os.path.join(name.name, file)) for file in files)


@lru_cache(maxsize=1)
def _loaded(described: str) -> tuple[Any, str]:
    """The data set, and what changes when its files do, as far as its store says."""
    import datasets

    name = DatasetName(*json.loads(described))
    try:
        if _on_disk(name):
            return _from_disk(datasets, name)
        # What `load_dataset(…, streaming=True)` does; the builder knows the files' revision.
        builder = datasets.load_dataset_builder(name.name, name.config, **name.kwargs)
        files = getattr(builder.config, "data_files", None) or {}
        stamp = [getattr(files.get(one), "origin_metadata", None) for one in sorted(files, key=str)]
        stream = builder.as_streaming_dataset(split=name.split or "train")
        return stream, json.dumps([builder.hash, stamp])
    except MosaicDataError:
        raise
    except Exception as error:
        # As above.
        raise MosaicDataError(f"prepare: cannot load {name}: {reason(error)}") from error


def _from_disk(datasets: Any, name: DatasetName) -> tuple[Any, str]:
    found = datasets.load_from_disk(name.name, **name.kwargs)
    if isinstance(found, datasets.DatasetDict):
        split = name.split or "train"
        if split not in found:
            raise MosaicDataError(
                f"prepare: {name} has no split {split!r}; it has {', '.join(found)} (choose "
                f"with dataset_split)"
            )
        found = found[split]
    elif name.split is not None and str(found.split) != name.split:
        has = "no splits" if found.split is None else f"only the split {str(found.split)!r}"
        raise MosaicDataError(
            f"prepare: {name} was saved with {has}, not with {name.split!r}; leave out "
            f"dataset_split, or give the directory of that split"
        )
    files = [file["filename"] for file in found.cache_files]
    stamp = json.dumps([[os.path.getsize(file), os.stat(file).st_mtime_ns] for file in files])
    return found, stamp
