"""Killed at any point and run again: the same bytes as an undisturbed run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prepare_helpers as helpers
import pyarrow.parquet as pq
import pytest
from store_support import s3

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_dataloader.prepare import prepare, targets

LIVES = str(Path(__file__).with_name("prepare_lives.py"))


def live(*runs: tuple[dict[str, Any], list[tuple[str, int, int]]], **more: Any) -> None:
    """Run preparations in several lives each."""
    listed = [{"options": options, "lives": lives} for options, lives in runs]
    job = {"runs": listed, "block_bytes": 3000, **more}
    command = [sys.executable, LIVES, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


@pytest.fixture
def corpus(tmp_path: Path) -> dict[str, Any]:
    """Files of three kinds: entered anywhere, by row groups, and as a whole."""
    names: list[str] = []
    for number, kind in enumerate(("jsonl", "parquet", "text")):
        folder = tmp_path / "in" / kind
        folder.mkdir(parents=True)
        texts = [f"{kind} {text}" for text in helpers.documents(40, seed=number)]
        if kind == "jsonl":
            lines = [json.dumps({"text": text}) + "\n" for text in texts]
            (folder / "a.jsonl").write_text("".join(lines))
            names.append(str(folder / "a.jsonl"))
            continue
        names.append(str(helpers.INPUTS[kind](folder, texts)["input"]))
        for path in folder.glob("*.parquet"):
            # In the column that the others have.
            pq.write_table(pq.read_table(path).rename_columns(["number", "text"]), path)
    return {"input": names}


def test_kills_leave_the_same_bytes(
    tmp_path: Path, tokenizer_dir: str, corpus: dict[str, Any]
) -> None:
    more = {"split_validation": 0.2, "compression": "zstd", "hashes": ["sha1"]}
    common = {**corpus, **more, "tokenizer": tokenizer_dir, "shard_bytes": 4096}
    lives = {
        "rows": [
            ("saving", 3, 2),
            ("saved", 4, 1),
            ("noting", 3, 2),
            ("noted", 5, 3),
            ("forgotten", 1, 1),
        ],
        "documents": [("noted", 7, 2)],
    }
    runs = []
    for form, points in lives.items():
        options = {**common, "form": form, "seq_len": 31 if form == "rows" else None}
        runs.append(({**options, "output": str(tmp_path / form)}, points))
        runs.append(({**options, "output": str(tmp_path / "undisturbed" / form)}, []))
    live(*runs)
    for form in lives:
        assert list(tmp_path.glob(f".{form}*")) == []
        one = helpers.contents(tmp_path / form)
        assert one == helpers.contents(tmp_path / "undisturbed" / form)
        assert len([name for name in one if name.startswith("train/shard")]) > 5
        assert len([name for name in one if name.startswith("validation/shard")]) > 1


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 store with a bucket, where boto3 finds it."""
    with s3.s3_server() as port:
        for name, value in s3.CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("S3_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        client = s3.client(port)
        client.create_bucket(Bucket="bucket")
        yield client


def stored(client: Any, prefix: str) -> dict[str, bytes]:
    """What lies under a prefix."""
    found = client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket="bucket", Key=entry["Key"])[
            "Body"
        ].read()
        for entry in found
    }


def test_an_object_store_as_output(
    tmp_path: Path,
    tokenizer_dir: str,
    corpus: dict[str, Any],
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = {**corpus, "tokenizer": tokenizer_dir, "shard_bytes": 4096, "seq_len": 31}
    common["split_validation"] = 0.2
    work = {"work_dir": str(tmp_path / "work"), "output": "s3://bucket/killed/"}
    live(
        ({**common, **work}, [("saved", 4, 2), ("noted", 3, 1)]),
        ({**common, "output": str(tmp_path / "plain")}, []),
    )
    plain = helpers.contents(tmp_path / "plain")
    assert stored(store, "killed/") == plain
    assert list((tmp_path / "work").iterdir()) == []

    # Another machine goes on from what the store knows; a store that was emptied is begun anew.
    monkeypatch.setattr(targets, "_SECONDS_BETWEEN_NOTES", 0.0)
    saved: list[str] = []
    real = targets.RemoteTarget.save

    def failing(self: Any, name: str, data: bytes) -> None:
        if name.startswith("train/shard"):
            saved.append(name)
            if name == fails:
                raise OSError(28, "No space left on device")
        real(self, name, data)

    monkeypatch.setattr(targets.RemoteTarget, "save", failing)

    def run(work_dir: str, output: str = "s3://bucket/data") -> Any:
        changes = {**common, "output": output, "work_dir": str(tmp_path / work_dir)}
        changes.pop("tokenizer")
        return prepare(helpers.options(tmp_path, tokenizer_dir, **changes))

    fails = "train/shard.00005.mds"
    with pytest.raises(MosaicDataError, match=r"No space left.*again to go on"):
        run("first")
    assert not json.loads(stored(store, "data/")["manifest.json"])["complete"]
    fails = ""
    saved.clear()
    assert run("second").created
    assert "train/shard.00000.mds" not in saved
    assert stored(store, "data/") == plain
    for name in stored(store, "data/"):
        store.delete_object(Bucket="bucket", Key=f"data/{name}")
    # The first machine's journal is still there, but not the shards that it tells of.
    assert run("first").created
    assert stored(store, "data/") == plain
    assert not run("third").created

    # The loader reads what lies there, and its manifest.
    data = StreamingTextDataset(
        seq_len=31, remote="s3://bucket/data", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == json.loads(plain["train/manifest.json"])["facts"]["samples"]
    data.close()

    store.put_object(Bucket="bucket", Key="foreign/index.json", Body=b"{}")
    secret = s3.CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    for output, named in [
        ("s3://bucket/foreign", "did not write"),
        ("s3://absent/data", "cannot write to s3://absent/data"),
        ("ftp://host/data", "ftp://"),
    ]:
        with pytest.raises(MosaicDataError, match=named) as caught:
            run("fourth", output)
        assert "\n" not in str(caught.value)
        assert secret not in str(caught.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == secret


def test_what_an_error_leaves_of_an_object_store(
    tmp_path: Path, tokenizer_dir: str, corpus: dict[str, Any], store: Any, monkeypatch: Any
) -> None:
    """Shards that are there are not made again, though the store was not told of them yet."""
    common = {**corpus, "shard_bytes": 4096, "seq_len": 31, "output": "s3://bucket/given-up"}
    common["work_dir"] = str(tmp_path / "work")
    saved: list[str] = []
    fails = ""
    real = targets.RemoteTarget.save

    def failing(self: Any, name: str, data: bytes) -> None:
        if name == fails:
            raise OSError(28, "No space left on device")
        saved.append(name)
        real(self, name, data)

    monkeypatch.setattr(targets.RemoteTarget, "save", failing)

    def run(**changes: Any) -> Any:
        return prepare(helpers.options(tmp_path, tokenizer_dir, **{**common, **changes}))

    def journals() -> list[Path]:
        return list((tmp_path / "work").rglob("journal.jsonl"))

    fails = "shard.00000.mds"
    with pytest.raises(MosaicDataError, match="No space left"):
        run()
    assert journals() == [], "of no use to anybody"
    # Nothing was begun: another job may take its place.
    fails = "shard.00003.mds"
    with pytest.raises(MosaicDataError, match="No space left"):
        run(seq_len=15)
    assert len(journals()) == 1
    assert json.loads(stored(store, "given-up/")["manifest.json"])["entries"] == []
    with pytest.raises(MosaicDataError, match="interrupted run that cannot go on"):
        run()
    assert len(journals()) == 1
    fails = ""
    saved.clear()
    assert run(seq_len=15).created
    assert not {f"shard.0000{number}.mds" for number in range(3)} & set(saved)
    assert "shard.00003.mds" in saved
    assert journals() == []
    plain = {"output": str(tmp_path / "plain"), "work_dir": None}
    assert run(seq_len=15, **plain).created
    assert stored(store, "given-up/") == helpers.contents(tmp_path / "plain")

    # Shards of options that cannot be completed: the store forgets those that it was told of.
    monkeypatch.setattr(targets, "_SECONDS_BETWEEN_NOTES", 0.0)
    nothing = {"output": "s3://bucket/refused", "split_validation": 1e-9}
    with pytest.raises(MosaicDataError, match="split_validation"):
        run(**nothing)
    assert "train/shard.00001.mds" in stored(store, "refused/")
    assert json.loads(stored(store, "refused/")["manifest.json"])["entries"] == []
    assert journals() == []
    assert run(output="s3://bucket/refused").created
