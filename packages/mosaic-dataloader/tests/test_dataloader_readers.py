"""Readers made from an index are those that mosaicml-streaming makes, and as strictly checked."""

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import JSONWriter, MDSWriter, Stream
from streaming.base.world import World

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_dataloader.storage.index import read_index

_PARTS = ("data", "meta")


def write(folder: Path, encoding: str = "ndarray:int32:5", **options: Any) -> dict[str, Any]:
    """Several shards; returns their index."""
    columns = {"tokens": encoding}
    with MDSWriter(out=str(folder), columns=columns, size_limit=300, **options) as writer:
        for number in range(60):
            writer.write({"tokens": np.full(5, number, np.int32)})
    index: dict[str, Any] = json.loads((folder / "index.json").read_text())
    assert len(index["shards"]) > 3
    return index


def merge(folder: Path, *indexes: dict[str, Any]) -> Stream:
    folder.mkdir()
    shards = []
    for part, index in enumerate(indexes):
        for shard in json.loads(json.dumps(index["shards"])):
            # As mosaicml-streaming's own merging names them.
            for file in (shard.get(f"{kind}_{of}") for kind in ("raw", "zip") for of in _PARTS):
                if file:
                    file["basename"] = f"{part}/{file['basename']}"
            shards.append(shard)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    return Stream(local=str(folder), split="")


def told(readers: list[Any]) -> list[Any]:
    return [(type(reader), vars(reader)) for reader in readers]


def test_the_readers_are_streamings_own(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain")
    packed = write(tmp_path / "packed", compression="zstd:3", hashes=["sha1", "xxh64"])
    other = write(tmp_path / "other", encoding="ndarray:int32")
    columns = {"tokens": "str"}
    with JSONWriter(out=str(tmp_path / "json"), columns=columns, size_limit=300) as writer:
        for number in range(60):
            writer.write({"tokens": str(number)})
    lines = json.loads((tmp_path / "json" / "index.json").read_text())
    stream = merge(tmp_path / "all", plain, packed, lines, other, plain)
    ours = read_index(stream, False)
    theirs = stream.get_shards(World(1, 1, 1, 0), False)
    assert told(ours) == told(theirs)
    assert gc.isenabled()
    # What all of them have in common they share: tens of thousands are no rarity.
    first, second = (vars(reader) for reader in ours[:2])
    assert first["column_names"] is second["column_names"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(version=1), "version 1 is not supported, only 2"),
        (lambda s: s.update(column_encodings=["pkl"]), "unsafe type: pkl"),
        (lambda s: s.update(format="parquet"), "'parquet'"),
        (lambda s: s.pop("samples"), "'samples'"),
        (lambda s: s.pop("column_names"), "'column_names'"),
        (lambda s: s.update(further=1), "'further'"),
        (lambda s: s.update(raw_data={"basename": "x"}), "'bytes'"),
        (lambda s: s.update(size_limit=-1), "size_limit"),
    ],
)
def test_one_bad_shard_among_good_ones_is_noticed(
    tmp_path: Path, change: Any, message: str
) -> None:
    index = write(tmp_path / "data")
    change(index["shards"][2])
    (tmp_path / "data" / "index.json").write_text(json.dumps(index))
    with pytest.raises(MosaicDataError) as refused:
        StreamingTextDataset(seq_len=4, local=str(tmp_path / "data"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty or damaged (Expecting value"),
        ('{"version": 2, "shards": [', "it is empty or damaged"),
        ('{"version": 1, "shards": []}', "version 1 is not supported"),
        ('{"version": 2}', "'shards'"),
    ],
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(MosaicDataError) as refused:
        StreamingTextDataset(seq_len=4, local=str(tmp_path))
    assert message in str(refused.value)
    assert "cannot read" in str(refused.value)
