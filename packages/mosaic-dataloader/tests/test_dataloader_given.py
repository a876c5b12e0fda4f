"""Options and paths as a caller in Python gives them: taken as meant, or refused in one line."""

import math
import os
import pwd
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataloader_helpers import SEQ_LEN, loader, numbers, take, write_rows
from streaming import MDSWriter, Stream
from streaming.base.util import merge_index

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_dataloader.storage.streams import warn_at_start

COUNTS = {
    "seq_len": 1,
    "predownload": 0,
    "download_retry": 0,
    "shuffle_seed": 0,
    "shuffle_block_size": 2,
    "num_canonical_nodes": 1,
    "sampling_granularity": 1,
    "packing_lanes": 1,
    "dp_world_size": 1,
    "dp_rank": 0,
    "batch_size": 1,
    "num_nodes": 1,
    "num_workers": 0,
    "prefetch_factor": 1,
    "skip_samples": 0,
}
FLAGS = (
    *("shuffle", "packing", "keep_zip", "allow_unsafe_types"),
    *("pin_memory", "persistent_workers", "drop_last", "infinite", "confirm_batches"),
)
SIZES = ("epoch_size", "cache_limit")
NO_NUMBERS = (math.nan, math.inf, -math.inf, True, "3", [3])


def message(local: Any, **options: Any) -> str:
    """The one line that options are refused in."""
    with pytest.raises(MosaicDataError) as caught:
        open_with(local, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def open_with(local: Any, **options: Any) -> StreamingTextDataset:
    from mosaic_dataloader import MosaicParallelAwareDataloader

    names = {"dp_world_size", "dp_rank", "batch_size", "num_nodes", "num_workers"}
    names |= {"prefetch_factor", "skip_samples", "stall_warning", *FLAGS[4:]}
    mine = {name: options.pop(name) for name in names if name in options}
    source = {"streams": local} if isinstance(local, dict | list) else {"local": local}
    dataset = StreamingTextDataset(**{"seq_len": SEQ_LEN, **source, **options})
    layout = {"dp_rank": 0, "dp_world_size": 1, "batch_size": 8, **mine}
    MosaicParallelAwareDataloader(dataset, **layout).close()
    return dataset


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_numbers_of_a_size(numbered: str, name: str) -> None:
    extra = {"packing": True} if name == "packing_lanes" else {}
    for value in (*NO_NUMBERS, 1.5, COUNTS[name] - 1):
        text = message(numbered, **{name: value}, **extra)
        assert text.startswith(f"{name} = "), text
    open_with(numbered, **{name: np.int64(max(COUNTS[name], name == "seq_len"))}, **extra)


@pytest.mark.parametrize("name", ["download_timeout", "stall_warning", *SIZES])
def test_other_numbers_are_finite_and_above_0(numbered: str, name: str) -> None:
    values = [v for v in NO_NUMBERS if v != "3" or name not in SIZES]
    for value in (*values, 0, -1, "9" * 400):
        assert message(numbered, **{name: value}).startswith(f"{name} = "), value


@pytest.mark.parametrize("name", FLAGS)
def test_flags_are_not_words(numbered: str, name: str) -> None:
    for value in ("false", 0, 1.0):
        assert message(numbered, **{name: value}).startswith(f"{name} = {value!r} must be true or")


@pytest.mark.parametrize("kind", ["mapping", "Stream"])
def test_the_options_of_a_stream_are_checked_and_named(numbered: str, kind: str) -> None:
    def given(**options: Any) -> Any:
        options = {"local": numbered, **options}
        return {"web": options} if kind == "mapping" else [_stream(options)]

    name = "web" if kind == "mapping" else "stream_0"
    wrong: list[tuple[str, Any]] = [
        (key, v) for key in ("proportion", "repeat") for v in NO_NUMBERS
    ]
    wrong += [("choose", v) for v in (*NO_NUMBERS, 1.5, -1)]
    wrong += [("download_retry", v) for v in (*NO_NUMBERS, -5)]
    wrong += [("download_timeout", v) for v in (math.nan, 0, -1, "60", True)]
    wrong += [("proportion", -0.5), ("keep_zip", "no"), ("validate_hash", 1)]
    for key, value in wrong:
        text = message(given(**{key: value}))
        assert text.startswith(f'stream "{name}": {key} = '), text
    assert len(open_with(given(repeat=np.float32(1.0), download_retry=np.int32(1)))) == 1003


def _stream(options: dict[str, Any]) -> Stream:
    """A stream of the user's own that somebody has given an option since."""
    stream = Stream(local=str(options.pop("local")))
    for key, value in options.items():
        setattr(stream, f"_{key}" if key in ("proportion", "repeat", "choose") else key, value)
    return stream


WEIGHTS: dict[str, dict[str, dict[str, Any]]] = {
    "proportions are all 0": {"a": {"proportion": 0}, "b": {"proportion": 0.0}},
    'stream "b" has no proportion, but stream "a" has': {"a": {"proportion": 1}, "b": {}},
    'stream "a" has repeat, but stream "b" has': {"a": {"repeat": 2}, "b": {"proportion": 1}},
    'stream "a" has proportion and choose; a stream takes only': {
        "a": {"proportion": 1, "choose": 3},
        "b": {"proportion": 1},
    },
}


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_contradict_are_named(
    numbered: str, part: str, recwarn: pytest.WarningsRecorder
) -> None:
    assert part in message({n: {"local": numbered, **w} for n, w in WEIGHTS[part].items()})
    assert not recwarn.list


def test_epoch_size_and_fixed_numbers_contradict(numbered: str) -> None:
    streams = {"a": {"local": numbered}, "b": {"local": numbered, "choose": 5}}
    assert 'stream "b" has choose' in message(streams, epoch_size=100)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"a": {}, "b": {"repeat": 0.0005}}, "repeat = 0.0005, of 1,003 samples"),
        ({"a": {"proportion": 1}, "b": {"proportion": 0}}, "proportion = 0, of 1,003 samples"),
        ({"a": {}, "b": {"choose": 0}}, "choose = 0, of 1,003 samples"),
    ],
)
def test_a_stream_that_gives_no_sample_is_named_once(
    numbered: str, weights: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    warn_at_start.cache_clear()
    for _ in range(2):
        open_with({n: {"local": numbered, **w} for n, w in weights.items()})
    told = [r.getMessage() for r in caplog.records]
    assert len(told) == 1
    assert told[0].startswith(f'stream "b" gives no sample to an epoch: {words}')


def test_home_directories_and_file_addresses_are_resolved_everywhere(
    numbered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "he re%41"
    home.mkdir()
    here.mkdir()
    shutil.copytree(numbered, home / "data")
    shutil.copytree(numbered, here / "data")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    user = pwd.getpwuid(os.getuid())
    own = os.path.join(f"~{user.pw_name}", os.path.relpath(home, user.pw_dir))
    escaped = str(here).replace("%", "%25").replace(" ", "%20")
    wanted = take(iter(loader("data")), 3)
    for source in (
        {"local": "~/data"},
        {"local": Path("~/data")},
        {"local": f"{own}/data"},
        {"local": f"file://{home}/data"},
        {"remote": "~/data", "local": "~/cache"},
        {"remote": f"file://{escaped}/data", "local": f"{own}/cache-2"},
        {"remote": f"file://localhost{home}/data"},
    ):
        one = loader({"web": source}, cache_dir="~/caches")
        assert take(iter(one), 3) == wanted
        one.close()
    streams = [Stream(remote="~/data", local="~/cache-3")]
    assert take(iter(loader(None, streams=streams)), 3) == wanted
    assert sorted(os.listdir(home)) == ["cache", "cache-2", "cache-3", "caches", "data"]
    assert os.listdir(here) == ["data"]
    # A folder of that name can still be had.
    shutil.copytree(numbered, here / "~")
    assert take(iter(loader("./~")), 3) == wanted


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("local", "~nobody-of-this-name/data", "no home directory for '~nobody-of-this-name'"),
        ("remote", "~nobody-of-this-name/data", "no home directory for '~nobody-of-this-name'"),
        ("cache_dir", "~nobody-of-this-name/data", "no home directory for '~nobody-of-this-name'"),
        ("remote", "file://host/data", "not a path on this machine; write file:///path"),
        ("cache_dir", "s3://bucket/cache", "must be a directory on this machine"),
        ("local", "a\0b", "must be a path"),
        ("remote", "s3://AKEY:aSecretOfS3@bucket/a\0b", "://AKEY:***@bucket/a"),
        ("local", b"data", "must be a path"),
    ],
)
def test_places_that_are_none_are_refused(
    numbered: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: Any,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    stream = {"remote": numbered, "local": str(tmp_path / "cache")}
    if option == "cache_dir":
        text = message({"web": stream}, cache_dir=value)
    else:
        text = message({"web": {**stream, option: value}})
    assert words in text
    assert option in text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("option", ["local", "remote", "cache_dir"])
def test_a_path_that_is_not_utf_8_is_one_line(numbered: str, tmp_path: Path, option: str) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    shutil.copytree(numbered, odd)
    stream = {"remote": numbered, "local": str(tmp_path / "cache")}
    if option == "cache_dir":
        text = message({"web": stream}, cache_dir=odd)
    else:
        text = message({"web": {**stream, option: odd}})
    assert "is not UTF-8; rename the folder" in text
    text.encode()
    # Also where it only shows behind a link.
    (tmp_path / "link").symlink_to(odd)
    assert "is not UTF-8" in message({"web": {**stream, "local": str(tmp_path / "link")}})


def test_a_folder_of_splits_is_recognized(tmp_path: Path) -> None:
    for name, first in (("validation", 100), ("train", 0)):
        write_rows(tmp_path / "data" / name, range(first, first + 10))
    for stream in ({"local": "D"}, {"remote": "D", "local": str(tmp_path / "cache")}):
        given = {k: str(tmp_path / "data") if v == "D" else v for k, v in stream.items()}
        text = message({"web": given})
        assert all(part in text for part in ("(train, validation)", 'split = "train"')), text
        one = loader({"web": {**given, "split": "validation"}}, shuffle=False, batch_size=10)
        assert take(iter(one), 1) == [list(range(100, 110))]
        one.close()
    assert not (tmp_path / "cache" / ".mosaic").exists(), "nothing is made for a mistake"


def test_damage_in_place_names_the_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "data", range(10), hashes=["xxh64"])
    shard = tmp_path / "data" / "shard.00000.mds"
    whole = bytearray(shard.read_bytes())
    whole[-9] ^= 1
    shard.write_bytes(whole)
    one = loader(str(tmp_path / "data"), validate_hash="xxh64")
    with pytest.raises(MosaicDataError) as caught:
        next(iter(one))
    one.close()
    text = str(caught.value)
    assert all(part in text for part in (f"{shard} is damaged", "xxh64", "restore it")), text
    assert "None" not in text


# Shards of one data set, written with different columns: encoding of "tokens" and what precedes it.
PARTS: dict[str, list[tuple[dict[str, str], Any]]] = {
    "types": [({"tokens": f"ndarray:{t}"}, t) for t in ("int32", "uint16", "int64", "uint32")],
    "free and fixed shapes": [
        ({"tokens": "ndarray:int32"}, "int32"),
        ({"tokens": f"ndarray:int32:{SEQ_LEN + 1}"}, "int32"),
        ({"tokens": "ndarray"}, "int64"),
    ],
    "a column before it": [
        ({"tokens": "ndarray:int32"}, "int32"),
        ({"id": "str", "tokens": "ndarray:int32"}, "int32"),
        ({"a": "int", "tokens": "ndarray:uint16", "z": "str"}, "uint16"),
    ],
    "arrays and bytes": [({"tokens": "ndarray:int32"}, "int32"), ({"tokens": "bytes"}, "int64")],
}


def write_parts(out: Path, parts: list[tuple[dict[str, str], Any]], rows: int = 20) -> str:
    """One merged data set, a folder for each part, rows numbered through all."""
    number = 0
    values = {"id": "x" * 7, "z": "zz", "a": 5, "text": "some text"}
    for part, (columns, dtype) in enumerate(parts):
        with MDSWriter(out=str(out / str(part)), columns=columns, size_limit=900) as writer:
            for _ in range(rows):
                row = np.full(SEQ_LEN + 1, number, dtype or np.int32)
                stored = {"tokens": row.tobytes() if columns.get("tokens") == "bytes" else row}
                writer.write({key: (stored | values)[key] for key in columns})
                number += 1
    merge_index(str(out), keep_local=True)
    return str(out)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("fetched", [False, True])
@pytest.mark.parametrize("kind", PARTS)
def test_shards_of_a_merged_index_are_read_each_by_its_own_description(
    tmp_path: Path, kind: str, fetched: bool, packing: bool
) -> None:
    data = write_parts(tmp_path / "data", PARTS[kind])
    total = 20 * len(PARTS[kind])
    stream = {"remote": data, "local": str(tmp_path / "cache")} if fetched else {"local": data}
    one = loader({"m": stream}, packing=packing, batch_size=10, infinite=False)
    gathered: set[int] = set()
    store = one.dataset.store
    opened = store._open_shard
    # Shards that are read from elsewhere are let go at the end of a pass.
    store._open_shard = lambda shard: (opened(shard), gathered.update(store.full_rows))[0]
    batches = list(one)
    if packing:
        stored = {int(t) for b in batches for t in b[0]["input"].flatten()}
        assert stored == set(range(total))
    else:
        assert sorted(n for b in batches for n in numbers(b)) == list(range(total))
        # Twice: the second pass gathers from maps that are open.
        assert sorted(n for b in one for n in numbers(b)) == list(range(total))
        for number in (0, total - 1):
            assert one.dataset[number].tolist() == [number] * (SEQ_LEN + 1)
    if kind == "types" and not packing:
        assert gathered == set(range(len(one.dataset.streams[0].readers)))
    one.close()


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (
            [({"tokens": "ndarray:int32"}, "int32"), ({"text": "str"}, None)],
            '0/shard.00000.mds holds "tokens", but 1/shard.00000.mds holds "text"',
        ),
        (
            [({"tokens": "ndarray:int32"}, "int32"), ({"tokens": "ndarray:float32"}, "float32")],
            'column "tokens" holds float32 values; token ids need an integer type; that is '
            "1/shard.00000.mds, while 0/shard.00000.mds can be read",
        ),
        (
            [({"tokens": "ndarray:int32"}, "int32"), ({"a": "int"}, None)],
            "that is 1/shard.00000.mds, while 0/shard.00000.mds can be read",
        ),
    ],
)
def test_shards_that_do_not_go_together_are_both_named(
    tmp_path: Path, parts: list[tuple[dict[str, str], Any]], words: str
) -> None:
    assert words in message(write_parts(tmp_path / "data", parts))
