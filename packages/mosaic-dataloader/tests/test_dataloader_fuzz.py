"""Indexes, manifests and shards that were changed at random end in one line, or are read."""

import copy
import json
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataloader_helpers import loader
from streaming import CSVWriter, JSONWriter, MDSWriter
from streaming.base.util import merge_index
from tokenizers import Tokenizer, models

from mosaic_dataloader import MosaicDataError

ROWS = 30
INDEXES, SHARDS = 420, 420

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**32, 2**40, 2**63, -(2**63), 10**30),
    *(0.0, 2.0, 1e308, float("nan"), float("inf"), "", "2", "mds", "x" * 100_000, "\n", "é"),
    *("pkl", "ndarray:int32", "ndarray:float32", "bytes", "str", "zstd", "br:5", "sha1"),
    *([], {}, [[]], [None], ["tokens"], {"basename": "x"}, {"a": 1}),
)
# Written into the text, since Python would not write them.
TEXTS = ("9" * 5000, "1e999", "-1e999", "[" * 3000 + "]" * 3000, '{"a":' * 900 + "1" + "}" * 900)
PLACE = "a place for a text"


def write_tokens(out: Path, encoding: str, **options: Any) -> None:
    with MDSWriter(out=str(out), columns={"tokens": encoding}, size_limit=700, **options) as writer:
        for number in range(ROWS):
            # Of different lengths where the encoding lets them.
            row = np.full(17 if encoding.endswith(":17") else 10 + number % 7, number, np.int32)
            writer.write({"tokens": row.tobytes() if encoding == "bytes" else row})


def write_texts(out: Path, writer_class: Any) -> None:
    with writer_class(out=str(out), columns={"text": "str"}, size_limit=700) as writer:
        for number in range(ROWS):
            writer.write({"text": " ".join([str(number)] * (5 + number % 7))})


def write_merged(out: Path) -> None:
    for part in range(2):
        write_tokens(out / str(part), "ndarray:int32")
    merge_index(str(out), keep_local=True)


FORMS = {
    "fixed": lambda out: write_tokens(out, "ndarray:int32:17"),
    "shapes": lambda out: write_tokens(out, "ndarray:int32"),
    "dtypes": lambda out: write_tokens(out, "ndarray"),
    "bytes": lambda out: write_tokens(out, "bytes"),
    "zstd": lambda out: write_tokens(out, "ndarray:int32", compression="zstd", hashes=["sha1"]),
    "gz": lambda out: write_tokens(out, "bytes", compression="gz:1"),
    "merged": write_merged,
    "text": lambda out: write_texts(out, MDSWriter),
    "json": lambda out: write_texts(out, JSONWriter),
    "csv": lambda out: write_texts(out, CSVWriter),
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    for name, write in FORMS.items():
        write(folder / name)
    return {name: folder / name for name in FORMS}


def read_all(place: Path, cache: Path, remote: bool) -> str:
    """Read a data set to its end.

    Returns:
        What its error says; empty if there is none.
    """
    vocabulary = {"?": 0, **{str(number): number for number in range(1, ROWS)}}
    stream = {"remote": str(place)} if remote else {"local": str(place)}
    stream = {**stream, "download_retry": 0}
    one = None
    try:
        one = loader(
            {"web": stream},
            cache_dir=str(cache),
            shuffle=False,
            infinite=False,
            tokenizer=Tokenizer(models.WordLevel(vocabulary, unk_token="?")),
            token_encoding_type="int32",
        )
        for _ in one:
            pass
    except MosaicDataError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 2500, message[:3000]
        return message
    finally:
        if one is not None:
            one.close()
            one.dataset.close()
    return ""


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    """Whatever sizes are stated, no such memory is used."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 300 << 10, f"{(after - before) >> 10} MiB more than before"


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, inner in items:
        yield from paths_of(inner, (*path, key))


def changed(index: Any, chance: random.Random) -> bytes:
    """An index with one to three changes, as the bytes of a file."""
    index = copy.deepcopy(index)
    text = chance.choice(TEXTS) if chance.random() < 0.1 else None
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        *way, last = chance.choice([path for path in paths_of(index) if path])
        inner = index
        for key in way:
            inner = inner[key]
        kind = chance.randrange(6)
        if kind == 0:
            del inner[last]
        elif kind == 1 and isinstance(inner, dict):
            inner[chance.choice(("more", "", "samples", "basename"))] = chance.choice(VALUES)
        elif kind == 2 and isinstance(inner, list):
            inner.append(copy.deepcopy(inner[last]))
        elif kind == 3 and type(inner[last]) is int:
            inner[last] += chance.choice((-1, 1, 100, -100, 10**9, 10**12))
        elif kind == 4 and text:
            inner[last] = PLACE
        else:
            inner[last] = copy.deepcopy(chance.choice(VALUES))
        if not index:
            break
    written = json.dumps(index).replace(json.dumps(PLACE), text or "null")
    if chance.random() < 0.05:
        written = written.replace('"samples":', '"samples": 3, "samples":', 1)
    data = written.encode()
    kind = chance.random()
    if kind < 0.03:
        return b"\xef\xbb\xbf" + data
    if kind < 0.06:
        return written.encode("utf-16")
    if kind < 0.09:
        at = chance.randrange(len(data))
        return data[:at] + bytes([chance.randrange(128, 256)]) + data[at + 1 :]
    return data[: chance.randrange(len(data))] if kind < 0.12 else data


def test_indexes_changed_at_random(
    forms: dict[str, Path], tmp_path: Path, bounded_memory: None
) -> None:
    chance = random.Random(11)
    outcomes = []
    for number in range(INDEXES):
        form = chance.choice(list(FORMS))
        place = tmp_path / "data"
        shutil.copytree(forms[form], place)
        index = json.loads((place / "index.json").read_text())
        (place / "index.json").write_bytes(changed(index, chance))
        remote = number % 2 == 1 or form in ("zstd", "gz")
        outcomes.append(read_all(place, tmp_path / "cache", remote))
        shutil.rmtree(place)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    refused = [message for message in outcomes if message]
    # Neither is everything refused nor everything read: the changes are of both kinds, and many.
    assert INDEXES // 2 < len(refused) < INDEXES
    assert len({message.partition("index.json")[2] for message in refused}) > INDEXES // 4


def test_shards_changed_at_random(
    forms: dict[str, Path], tmp_path: Path, bounded_memory: None
) -> None:
    chance = random.Random(12)
    outcomes = []
    plain = [form for form in FORMS if form not in ("zstd", "gz")]
    for number in range(SHARDS):
        form = plain[number % len(plain)]
        place = tmp_path / "data"
        shutil.copytree(forms[form], place)
        shard = chance.choice([p for p in place.rglob("shard*") if p.is_file()])
        data = bytearray(shard.read_bytes())
        # Where numbers and offsets are, or where the last samples begin.
        area = 60 if chance.random() < 0.5 else len(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            at = chance.randrange(min(area, len(data)))
            if chance.random() < 0.5:
                data[at] = chance.randrange(256)
            else:
                word = chance.choice((0, 1, 2**31, 2**32 - 1, len(data), len(data) + 1))
                data[at : at + 4] = word.to_bytes(4, "little")[: len(data) - at]
        shard.write_bytes(data)
        outcomes.append(read_all(place, tmp_path / "cache", remote=False))
        shutil.rmtree(place)
    refused = [message for message in outcomes if message]
    assert SHARDS // 5 < len(refused) < SHARDS
    assert all("shard" in message for message in refused)


def test_manifests_changed_at_random(forms: dict[str, Path], tmp_path: Path) -> None:
    chance = random.Random(13)
    note = {
        "version": 2,
        "complete": True,
        "form": "rows",
        "options": {"seq_len": 16, "hashes": []},
        "facts": {"largest": 29, "tokens": 500},
        "tokenizer": {"name": "bpe", "fingerprint": "ab" * 8, "vocab_size": 400, "eos_id": 1},
    }
    place = tmp_path / "data"
    shutil.copytree(forms["fixed"], place)
    outcomes = []
    for _ in range(200):
        (place / "manifest.json").write_bytes(changed(note, chance))
        outcomes.append(read_all(place, tmp_path / "cache", remote=False))
    assert all("manifest.json" in m or "was prepared with" in m for m in outcomes if m)
    assert {bool(message) for message in outcomes} == {True, False}
