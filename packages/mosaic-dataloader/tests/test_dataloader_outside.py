"""Whatever an index says, nothing outside the stream's directory and its cache is touched."""

import gc
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from dataloader_helpers import loader, numbers, write_rows
from file_watch import watch
from streaming import JSONWriter
from streaming.base.util import merge_index
from tokenizers import Tokenizer, models

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.storage.cache import _evict, usage
from mosaic_dataloader.storage.contents import (
    InvalidIndexError,
    check_name,
    load_index,
    path_in_stream,
)

ROWS = 40
# "{outside}" is a directory beside the stream's, with files that would fit into the data set.
NAMES: tuple[Any, ...] = (
    "{outside}/{file}",
    "../outside/{file}",
    "part/../../outside/{file}",
    "..",
    "part/..",
    "/",
    "link/{file}",
    "link/../{file}",
    "linked.file",
    "..\\outside\\{file}",
    "",
    ".",
    "part/",
    "index.json",
    "INDEX.JSON",
    "./index.json",
    "index.json/x",
    "manifest.json",
    ".mosaic/lock",
    ".mosaic/staging/0",
    ".profile",
    "part/.profile",
    "a\0b",
    "{outside}/{file}\0",
    "a\nb",
    "\ud800",
    "x" * 300,
    "y/" * 3000 + "z",
    5,
    None,
    True,
    ["{outside}/{file}"],
    {},
)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    assert len(text) < 2500, len(text)
    return text


def write_json(out: Path) -> None:
    with JSONWriter(out=str(out), columns={"text": "str"}, size_limit=900) as writer:
        for number in range(ROWS):
            writer.write({"text": f"{number} " * 20})


def write_merged(out: Path) -> None:
    for part in range(2):
        half = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        write_rows(out / str(part), half, size_limit=1000)
    merge_index(str(out), keep_local=True)


FORMS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "raw": (lambda out: write_rows(out, range(ROWS), size_limit=1000), ("raw_data",)),
    "zip": (
        lambda out: write_rows(out, range(ROWS), size_limit=1000, compression="zstd"),
        ("raw_data", "zip_data"),
    ),
    "merged": (write_merged, ("raw_data",)),
    "split": (write_json, ("raw_data", "raw_meta")),
}


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    for name, (write, _) in FORMS.items():
        write(folder / name)
    return {name: folder / name for name in FORMS}


def read_all(stream: dict[str, Any], cache: Path, form: str, **options: Any) -> None:
    if form == "split":
        vocabulary = {"?": 0, **{str(number): number for number in range(1, ROWS)}}
        options["tokenizer"] = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    one = loader(
        {"web": {"download_retry": 0, **stream}},
        cache_dir=str(cache),
        shuffle=False,
        infinite=False,
        **options,
    )
    try:
        for batch in one:
            if form != "split":
                numbers(batch)
    finally:
        one.close()
        one.dataset.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["local", "remote", "limited"])
def test_no_name_in_an_index_leads_outside(
    forms: dict[str, Path], tmp_path: Path, form: str, place: str
) -> None:
    """Names that lead out of the directory, each in every kind of entry of an index."""
    checked = 0
    for key in FORMS[form][1]:
        for number, given in enumerate((*NAMES, "twice")):
            root = tmp_path / f"{key}-{number}"
            store, outside, cache = root / "store", root / "outside", root / "cache"
            shutil.copytree(forms[form], store)
            index = json.loads((store / "index.json").read_text())
            # The last shard is the one that a reader comes to last, and eviction perhaps first.
            info = index["shards"][-1][key]
            file = os.path.basename(info["basename"])
            outside.mkdir()
            shutil.copy(next(store.rglob(file), store / "index.json"), outside / file)
            (outside / "precious").write_text("mine")
            name = _filled(given, outside, file)
            if given == "twice":
                name = index["shards"][0][key]["basename"]
            info["basename"] = name
            (store / "index.json").write_text(json.dumps(index))
            for directory in (store, cache / "streams"):
                directory.mkdir(parents=True, exist_ok=True)
                os.symlink(outside, directory / "link")
                os.symlink(outside / file, directory / "linked.file")
            stream = {"local" if place == "local" else "remote": str(store)}
            if place != "local":
                stream["local"] = str(cache / "streams")
            limit = {"cache_limit": 20_000} if place == "limited" else {}
            text = ""
            with watch(root) as seen:
                try:
                    read_all(stream, cache, form, **limit)
                except MosaicDataError as error:
                    text = one_line(error)
            # Unpacked into a cache of its own, where no such links are, it is a good name.
            harmless = place == "local" and form == "zip" and key == "raw_data"
            assert text or (harmless and name.startswith("link")), name
            assert not [n for n in seen.changed if not n.startswith("cache")], (name, seen.changed)
            wrong = [path for path in seen.opened if path.startswith(str(outside))]
            assert not wrong, (name, wrong)
            assert [path for path in seen.opened if path.startswith(str(root))], "it was watched"
            if text and "symbolic link" not in text:
                assert "basename" in text, text
                # Refused before anything was opened but the index, which is not kept.
                kept = {p.name for p in cache.rglob("*") if p.is_file() and not p.is_symlink()}
                assert kept <= {"lock"}, kept
            checked += 1
    assert checked > len(NAMES)
    gc.collect()


def _filled(name: Any, outside: Path, file: str) -> Any:
    if isinstance(name, str):
        return name.replace("{outside}", str(outside)).replace("{file}", file)
    return [_filled(part, outside, file) for part in name] if isinstance(name, list) else name


@pytest.mark.parametrize("form", FORMS)
def test_the_same_data_sets_are_read_as_they_are(
    forms: dict[str, Path], tmp_path: Path, form: str
) -> None:
    """What the test above reads is data that would be read, but for the one name."""
    root = tmp_path / "root"
    shutil.copytree(forms[form], root / "store")
    with watch(root) as seen:
        read_all({"remote": str(root / "store")}, root / "cache", form)
    assert seen.changed
    assert not [name for name in seen.changed if not name.startswith("cache")]
    assert len([path for path in seen.opened if path.startswith(str(root / "store"))]) > 3


def test_names_that_stay_inside_are_good() -> None:
    for name in ("shard.00000.mds", "0/shard.00000.mds.zstd", "./0/a", "a..b", "ä ö/北京.mds"):
        check_name(name)
    for name in NAMES:
        if isinstance(name, str) and not name.startswith("link"):
            with pytest.raises(InvalidIndexError):
                check_name(_filled(name, Path("/outside"), "file"))


def test_a_link_that_stays_inside_is_followed_and_another_is_not(tmp_path: Path) -> None:
    write_rows(tmp_path / "data", range(60), size_limit=1000)
    place = tmp_path / "data"
    (place / "real").mkdir()
    os.rename(place / "shard.00001.mds", place / "real" / "one")
    os.symlink("real/one", place / "shard.00001.mds")
    read_all({"local": str(place)}, tmp_path / "cache", "raw")
    assert path_in_stream(str(place), "shard.00001.mds") == str(place / "shard.00001.mds")
    # As a Hugging Face snapshot has them.
    (tmp_path / "blob").write_bytes((place / "real" / "one").read_bytes())
    (place / "shard.00001.mds").unlink()
    os.symlink("../blob", place / "shard.00001.mds")
    with pytest.raises(MosaicDataError, match=r"symbolic link to .*put what it points to"):
        read_all({"local": str(place)}, tmp_path / "cache", "raw")
    # The directory itself may be reached by one.
    (place / "shard.00001.mds").unlink()
    os.rename(place / "real" / "one", place / "shard.00001.mds")
    os.symlink(place, tmp_path / "alias")
    read_all({"local": str(tmp_path / "alias")}, tmp_path / "cache", "raw")


def test_eviction_stays_inside(tmp_path: Path) -> None:
    """Folders of a cache that were replaced by links, and files that were."""
    write_merged(tmp_path / "store")
    cache, outside = tmp_path / "cache", tmp_path / "outside"
    stream = {"remote": str(tmp_path / "store"), "local": str(cache)}
    read_all(stream, tmp_path / "orders", "merged")
    shutil.copytree(cache / "0", outside)
    shutil.rmtree(cache / "0")
    os.symlink(outside, cache / "0")
    with watch(tmp_path) as seen:
        with pytest.raises(MosaicDataError, match="symbolic link"):
            _evict(str(cache), 0)
        with pytest.raises(MosaicDataError, match="symbolic link"):
            read_all(stream, tmp_path / "orders", "merged", cache_limit=20_000)
        usage(str(cache))
    assert not [name for name in seen.changed if name.startswith("outside")]
    # A file that is a link to a large one counts as a link.
    os.unlink(cache / "0")
    (cache / "0").mkdir()
    before = usage(str(cache))
    (outside / "large").write_bytes(bytes(1 << 20))
    os.symlink(outside / "large", cache / "0" / "shard.00000.mds")
    assert usage(str(cache)) - before < 1000


def test_a_damaged_index_is_not_kept(tmp_path: Path) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    write_rows(store, range(ROWS), size_limit=1000)
    good = (store / "index.json").read_bytes()
    stream = {"remote": str(store), "local": str(cache)}
    for bad in (good[:-20], b'{"version": 2, "shards": [1]}', b"\xff\xfe", b"[" * 100_000):
        (store / "index.json").write_bytes(bad)
        with pytest.raises(MosaicDataError) as caught:
            read_all(stream, tmp_path, "raw")
        assert "index.json" in one_line(caught.value)
        assert not (cache / "index.json").exists()
        # The next try downloads it again.
        (store / "index.json").write_bytes(good)
        read_all(stream, tmp_path, "raw")
        # The copy in the cache was damaged.
        (cache / "index.json").write_bytes(bad)
        read_all(stream, tmp_path, "raw")
        assert (cache / "index.json").read_bytes() == good
        # So it was, and nothing says which one the store had.
        (cache / "index.json").write_bytes(bad)
        (cache / ".mosaic" / "checked").unlink()
        read_all(stream, tmp_path, "raw")
        assert (cache / "index.json").read_bytes() == good
        shutil.rmtree(cache)


def test_a_note_in_a_cache_is_not_written_through_a_link(tmp_path: Path) -> None:
    write_rows(tmp_path / "store", range(ROWS))
    stream = {"remote": str(tmp_path / "store"), "local": str(tmp_path / "cache")}
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for note in ("checked", "versions", "lock"):
        (tmp_path / "cache" / ".mosaic").mkdir(parents=True)
        os.symlink(precious, tmp_path / "cache" / ".mosaic" / note)
        with pytest.raises(MosaicDataError, match="choose another local"):
            read_all(stream, tmp_path, "raw")
        assert precious.read_text() == "mine"
        shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "cache" / ".mosaic")
    with pytest.raises(MosaicDataError, match=r"\.mosaic is a symbolic link"):
        read_all(stream, tmp_path, "raw")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_note_is_not_written_through_a_link_made_meanwhile(tmp_path: Path) -> None:
    write_rows(tmp_path / "store", range(ROWS), size_limit=1000)
    stream = {"remote": str(tmp_path / "store"), "local": str(tmp_path / "cache")}
    one = loader({"web": stream}, shuffle=False, predownload=0, batch_size=4)
    (tmp_path / "precious").write_text("mine")
    versions = tmp_path / "cache" / ".mosaic" / "versions"
    versions.unlink(missing_ok=True)
    os.symlink(tmp_path / "precious", versions)
    with pytest.raises(MosaicDataError, match="shard"):
        for _ in zip(one, range(ROWS // 4), strict=False):
            pass
    one.close()
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"samples": True}, "samples: True is not a whole number"),
        ({"samples": 4.0}, "samples: 4.0 is not a whole number"),
        ({"samples": -1}, "samples: -1 is not a whole number"),
        ({"bytes": 400.0}, "bytes of raw_data: 400.0 is not a whole number"),
        ({"bytes": 1 << 32}, "bytes of raw_data: 4294967296 is not a whole number"),
        ({"size_limit": False}, "size_limit: False is not a whole number"),
        ({"column_sizes": [8.0]}, "a column's size: 8.0 is not a whole number"),
        # Eight bytes and four for each sample, before the first of them begins.
        ({"samples": 99}, "99 samples do not fit into the 400 bytes of 'shard.00000.mds'"),
        ({"samples": 98}, None),
    ],
)
def test_sizes_in_an_index_are_whole_numbers_that_agree(
    tmp_path: Path, change: dict[str, Any], said: str | None
) -> None:
    raw = {"basename": "shard.00000.mds", "bytes": 400, "hashes": {}}
    raw.update({key: value for key, value in change.items() if key == "bytes"})
    shard = {"version": 2, "format": "mds", "samples": 4, "size_limit": None, "hashes": []}
    shard |= {"compression": None, "zip_data": None, "raw_data": raw}
    shard |= {"column_names": ["x"], "column_encodings": ["int"], "column_sizes": [8]}
    shard |= {key: value for key, value in change.items() if key != "bytes"}
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"version": 2, "shards": [shard]}))
    if said is None:
        assert load_index(str(path)) == [shard]
        return
    with pytest.raises(InvalidIndexError, match=re.escape(said)):
        load_index(str(path))


def test_shards_in_place_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "data"
    write_rows(place, range(ROWS), size_limit=1000, hashes=["sha1"])
    shard = place / "shard.00001.mds"
    whole = shard.read_bytes()
    stream = {"local": str(place)}

    def refused(match: str, **options: Any) -> None:
        with pytest.raises(MosaicDataError, match=match) as caught:
            read_all(stream, tmp_path, "raw", **options)
        assert "shard.00001.mds" in one_line(caught.value)

    shard.write_bytes(whole[:-3])
    refused("not as long as its index says")
    shard.unlink()
    # A directory's own size is often a whole page.
    shard.mkdir()
    refused("is missing|is not a file")
    shard.rmdir()
    os.mkfifo(shard)
    refused("is missing|is not a file")
    shard.unlink()
    shard.write_bytes(whole)
    # Tests may run as root, who may read everything.
    real_open = open

    def denied(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path).endswith("shard.00001.mds"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *rest, **more)

    monkeypatch.setattr("builtins.open", denied)
    refused("Permission denied.*let this user read it", validate_hash="sha1")
    real_map = torch.from_file

    def unmappable(path: str, **more: Any) -> Any:
        if path.endswith("shard.00001.mds"):
            raise RuntimeError("unable to open file\nin read-only mode: Permission denied (13)")
        return real_map(path, **more)

    monkeypatch.setattr(torch, "from_file", unmappable)
    refused(r'stream "web": cannot read .*\(Permission denied\); let this user read it')
