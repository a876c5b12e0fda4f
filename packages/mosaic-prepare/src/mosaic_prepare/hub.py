"""Hugging Face data sets, by name or as `save_to_disk` wrote them."""

import itertools
import json
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pyarrow

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare.documents import Document, NotADocumentError, Piece
from mosaic_prepare.inputs import InputFile
from mosaic_prepare.opening import CannotReadError, reason
from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.tables import check_columns, rows_of

_BATCH_ROWS = 256


def dataset_pieces(options: PrepareOptions) -> list[Piece]:
    """The parts of a data set: all rows of one that is on disk, shards of one that is streamed."""
    name = os.path.expanduser(options.inputs[0])
    # Other processes may run in another directory.
    place = os.path.abspath(name) if os.path.isdir(name) else name
    data, stamp = _load(place, options)
    title = _title(place, options)
    try:
        names = data.column_names or list(next(iter(data), {}))
        check_columns(pyarrow.schema([(one, pyarrow.string()) for one in names]), options)
    except NotADocumentError as error:
        raise MosaicDataError(f"prepare: {title} {error}") from None
    except Exception as error:
        # Its builders, and the stores behind them, raise errors of every kind.
        raise CannotReadError(f"prepare: cannot read {title}: {reason(error)}") from error
    if _is_saved(place):
        file = InputFile(title, place, int(data.data.nbytes), stamp)
        return [Piece(file, "dataset", 0, len(data))]
    splits = getattr(data.info, "splits", None) or {}
    split = options.dataset_split or "train"
    total = getattr(splits.get(split), "num_bytes", None) or 0
    shards = int(data.num_shards)
    files = (
        InputFile(f"{title}, shard {number}", place, total // shards, stamp)
        for number in range(shards)
    )
    return [Piece(file, "dataset", i, i + 1) for i, file in enumerate(files)]


def read_dataset(piece: Piece, options: PrepareOptions) -> Iterator[Document]:
    """Documents of a part of a data set."""
    place = piece.file.url
    try:
        data, _ = _load(place, options)
        data = data.select_columns(list(options.text_columns))
        first = 1
        if _is_saved(place):
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


def _is_saved(place: str) -> bool:
    """Whether `save_to_disk` wrote it."""
    files = ("state.json", "dataset_dict.json")
    return any(os.path.isfile(os.path.join(place, file)) for file in files)


def _title(place: str, options: PrepareOptions) -> str:
    """Its name in messages."""
    config = options.dataset_config
    return f"data set {place!r}" + (f" ({config})" if config else "")


def _load(place: str, options: PrepareOptions) -> tuple[Any, str]:
    """The data set, and what changes when its files do, as far as its store says."""
    kwargs = json.dumps(dict(options.dataset_kwargs))
    try:
        return _loaded(place, options.dataset_config, options.dataset_split, kwargs)
    except MosaicDataError:
        raise
    except Exception as error:
        # As above.
        title = _title(place, options)
        raise MosaicDataError(f"prepare: cannot load {title}: {reason(error)}") from error


@lru_cache(maxsize=1)
def _loaded(place: str, config: str | None, split: str | None, kwargs: str) -> tuple[Any, str]:
    import datasets

    if _is_saved(place):
        return _from_disk(datasets.load_from_disk(place, **json.loads(kwargs)), place, split)
    # What `load_dataset(…, streaming=True)` does; the builder knows the files' revision.
    builder = datasets.load_dataset_builder(place, config, **json.loads(kwargs))
    files = getattr(builder.config, "data_files", None) or {}
    stamp = [getattr(files.get(one), "origin_metadata", None) for one in sorted(files, key=str)]
    stream = builder.as_streaming_dataset(split=split or "train")
    return stream, json.dumps([builder.hash, stamp])


def _from_disk(found: Any, place: str, split: str | None) -> tuple[Any, str]:
    if isinstance(found, dict):  # a DatasetDict, by split
        split = split or "train"
        if split not in found:
            raise MosaicDataError(
                f"prepare: data set {place!r} has no split {split!r}; it has {', '.join(found)} "
                f"(choose with dataset_split)"
            )
        found = found[split]
    elif split is not None and str(found.split) != split:
        has = "no splits" if found.split is None else f"only the split {str(found.split)!r}"
        raise MosaicDataError(
            f"prepare: data set {place!r} was saved with {has}, not with {split!r}; leave out "
            f"dataset_split, or give the directory of that split"
        )
    files = [file["filename"] for file in found.cache_files]
    stamp = json.dumps([[os.path.getsize(file), os.stat(file).st_mtime_ns] for file in files])
    return found, stamp
