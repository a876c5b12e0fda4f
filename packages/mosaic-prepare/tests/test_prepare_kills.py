"""Killed at any point and run again, or spread over machines: the bytes of an undisturbed run."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prepare_helpers as helpers
import pyarrow.parquet as pq
import pytest
from store_support import s3

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_prepare import cli, engines, output, prepare, run
from mosaic_prepare.run import finish, prepare_task

UNIT_BYTES = 9_000


def killed_runs(
    server: Any,
    log: Path,
    *preparations: tuple[dict[str, Any], list[tuple[str, int, int]]],
) -> list[tuple[str, int]]:
    """Kill and repeat preparations; for each run where it was killed and the units it made."""
    listed = [{"options": options, "kills": kills} for options, kills in preparations]
    job = {"preparations": listed, "unit_bytes": UNIT_BYTES, "log": str(log)}
    job |= {"environment": dict(os.environ), "folder": os.getcwd()}
    server.stdin.write(json.dumps(job).encode() + b"\n")
    server.stdin.flush()
    made = json.loads(server.stdout.readline())
    assert isinstance(made, list), f"{made}\n{log.read_text()[-3000:]}"
    return made


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Files of three kinds: cut anywhere, by row groups, and put together.

    By relative names: units end by a hash of them, and in no test should their number depend on
    where the temporary folder is.
    """
    monkeypatch.chdir(tmp_path)
    names: list[str] = []
    for number, kind in enumerate(("jsonl", "parquet", "text")):
        folder = Path("in", kind)
        folder.mkdir(parents=True)
        texts = [f"{kind} {text}" for text in helpers.documents(60, seed=number)]
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


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "bytes_of_unit", lambda total: UNIT_BYTES)


def test_kills_leave_the_same_bytes(
    tmp_path: Path, tokenizer_dir: str, corpus: dict[str, Any], kill_runs: Any
) -> None:
    more = {"split_validation": 0.2, "compression": "zstd", "hashes": ["sha1"]}
    common = {**corpus, **more, "tokenizer": tokenizer_dir, "shard_bytes": 4096}
    kills = {
        "rows": [
            ("shards are there", 3, 1),
            ("a worker gives a result", 2, 2),
            ("note is there", 2, 1),
            ("indexes are there", 3, 1),
            ("renamed", 1, 1),
        ],
        "documents": [("unit is done", 7, 1)],
    }
    runs = []
    for form, points in kills.items():
        options = {**common, "form": form, "seq_len": 31 if form == "rows" else None}
        runs.append(({**options, "output": str(tmp_path / form)}, points))
        runs.append(({**options, "output": str(tmp_path / "undisturbed" / form)}, []))
    made = killed_runs(kill_runs, tmp_path / "log", *runs)
    for form in kills:
        assert list(tmp_path.glob(f".{form}*")) == []
        one = helpers.contents(tmp_path / form)
        assert one == helpers.contents(tmp_path / "undisturbed" / form)
        assert len([name for name in one if name.startswith("train/unit")]) > 5
        assert len([name for name in one if name.startswith("validation/unit")]) > 1
    # At most one unit for each process is made again: what the parent has not noted, too, is done.
    units = len(helpers.units_in(tmp_path / "rows"))
    rows = [count for _, count in made[: len(kills["rows"]) + 1]]
    assert sum(rows) <= units
    assert rows[-2:] == [0, 0], "after the last unit nothing is left to make"


def test_processes_and_tasks_of_an_array_make_the_same_bytes(
    tmp_path: Path, tokenizer_dir: str, corpus: dict[str, Any], small_units: None
) -> None:
    def options(name: str, **changes: Any) -> Any:
        more = {**corpus, "split_validation": 0.2, "output": tmp_path / name}
        return helpers.options(tmp_path, tokenizer_dir, **more, **changes)

    prepare(options("one"))
    plain = helpers.contents(tmp_path / "one")
    units = len(helpers.units_in(tmp_path / "one"))
    assert units > 6
    assert prepare_task(options("array"), 3, 3) == units // 3
    # Put together too early: what a task is writing stays.
    (tmp_path / ".array.partial" / "tmp" / "of a task").mkdir()
    for name, missing in [("array", units - units // 3), ("early", units)]:
        with pytest.raises(MosaicDataError, match=rf"{missing} of {units} units are missing"):
            finish(options(name))
    assert (tmp_path / ".array.partial" / "tmp" / "of a task").exists()
    assert not list(tmp_path.glob(".early*"))
    with pytest.raises(MosaicDataError, match=r"other options: seq_len=31 then, seq_len=30 now"):
        prepare_task(options("array", seq_len=30), 1, 3)
    # In any order, some of them twice; a file is not there for its finish any more.
    assert sum(prepare_task(options("array"), task, 3) for task in (2, 3, 1)) == units
    assert finish(options("array")).created
    assert helpers.contents(tmp_path / "array") == plain
    assert prepare_task(options("array"), 1, 3) == 0
    # By the command.
    given = ["--input", *corpus["input"], "--tokenizer", tokenizer_dir, "--seq-len", "31"]
    given += ["--split-validation", "0.2", "--shard-bytes", "8192"]
    for more in (["--task", "1/1"], ["--finish"]):
        assert cli.main([*given, "--output", str(tmp_path / "single"), *more]) == 0
    assert helpers.contents(tmp_path / "single") == plain
    # Two processes, of which one is killed; then again.
    killed: list[int] = []
    real = run._name_rejected

    def kill_one(*arguments: Any) -> int:
        if not killed:
            children = Path(f"/proc/{os.getpid()}/task")
            pids = {
                int(p) for t in children.iterdir() for p in (t / "children").read_text().split()
            }
            server = [p for p in pids if b"forkserver" in Path(f"/proc/{p}/cmdline").read_bytes()]
            for parent in server:
                below = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                killed.append(int(below[0]))
                os.kill(killed[0], signal.SIGKILL)
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_name_rejected", kill_one)
        with pytest.raises(MosaicDataError, match=r"a worker process was killed.*fewer processes"):
            prepare(options("two", processes=2))
    assert len(killed) == 1
    done = len(list((tmp_path / ".two.partial" / ".prepare").glob("unit-*")))
    assert 1 <= done < units
    prepare(options("two", processes=2))
    assert helpers.contents(tmp_path / "two") == plain


def test_a_mistake_in_a_worker_is_one_line(
    tmp_path: Path, tokenizer_dir: str, small_units: None
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "some text"}\n' * 500 + b"{\n")
    given = {"input": str(tmp_path / "a.jsonl"), "processes": 2}
    with pytest.raises(MosaicDataError, match=r"a\.jsonl, line 501: is not JSON"):
        prepare(helpers.options(tmp_path, tokenizer_dir, **given))


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


def stored(client: Any, prefix: str, *, notes: bool = False) -> dict[str, bytes]:
    """What lies under a prefix, without the notes of its units."""
    found = client.list_objects_v2(Bucket="bucket", Prefix=prefix).get("Contents", [])
    return {
        entry["Key"].removeprefix(prefix): client.get_object(Bucket="bucket", Key=entry["Key"])[
            "Body"
        ].read()
        for entry in found
        if notes == ("/.prepare/" in entry["Key"])
    }


def test_an_object_store_as_output(
    tmp_path: Path,
    tokenizer_dir: str,
    corpus: dict[str, Any],
    store: Any,
    kill_runs: Any,
    small_units: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = {**corpus, "tokenizer": tokenizer_dir, "shard_bytes": 4096, "seq_len": 31}
    common["split_validation"] = 0.2
    work = {"work_dir": str(tmp_path / "work"), "output": "s3://bucket/killed/"}
    killed_runs(
        kill_runs,
        tmp_path / "log",
        ({**common, **work}, [("uploading", 5, 1), ("unit is done", 3, 1)]),
        ({**common, "output": str(tmp_path / "plain")}, []),
    )
    plain = helpers.contents(tmp_path / "plain")
    assert stored(store, "killed/") == plain

    # Tasks on several machines, which share nothing but the store, and one that is out of order.
    uploaded: list[str] = []
    fails = "unit-"
    real = output.RemoteOutput._upload

    def failing(self: Any, folder: Path, names: Any) -> None:
        uploaded.extend(names)
        if fails and any(fails in name for name in names):
            raise OSError(28, "No space left on device")
        real(self, folder, names)

    monkeypatch.setattr(output.RemoteOutput, "_upload", failing)

    def options(machine: str, url: str = "s3://bucket/data", **changes: Any) -> Any:
        more = {**common, "output": url, "work_dir": str(tmp_path / machine), **changes}
        more.pop("tokenizer")
        return helpers.options(tmp_path, tokenizer_dir, **more)

    with pytest.raises(MosaicDataError, match=r"No space left.*again to resume"):
        prepare_task(options("first"), 1, 2)
    fails = ""
    first = prepare_task(options("first"), 1, 2)
    with pytest.raises(MosaicDataError, match=r"seq_len=31 then, seq_len=15 now.*job\.json"):
        prepare_task(options("second", seq_len=15), 2, 2)
    assert "manifest.json" not in stored(store, "data/")
    uploaded.clear()
    # Another machine resumes from what the store knows.
    assert prepare(options("third")).created
    units = len(helpers.units_in(tmp_path / "plain"))
    assert len([name for name in uploaded if name.startswith(".prepare/unit")]) == units - first
    assert uploaded[-2:] == ["validation/index.json", "manifest.json"]
    assert stored(store, "data/") == plain
    assert not prepare(options("third")).created
    # A store that was emptied is filled again.
    for name in {**stored(store, "data/"), **stored(store, "data/", notes=True)}:
        store.delete_object(Bucket="bucket", Key=f"data/{name}")
    assert prepare(options("first")).created
    assert stored(store, "data/") == plain

    # The loader reads what lies there, and its manifest.
    data = StreamingTextDataset(
        seq_len=31, remote="s3://bucket/data", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(data) == json.loads(plain["train/manifest.json"])["facts"]["samples"]
    data.close()

    # Options with which nothing can be completed leave the place to others.
    with pytest.raises(MosaicDataError, match="leaves nothing for validation"):
        prepare(options("third", "s3://bucket/refused", split_validation=1e-9))
    assert stored(store, "refused/").keys() == {
        name for name in stored(store, "refused/") if "unit-" in name
    }
    assert prepare(options("third", "s3://bucket/refused")).created

    store.put_object(Bucket="bucket", Key="foreign/index.json", Body=b"{}")
    secret = s3.CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
    for url, named in [
        ("s3://bucket/foreign", "did not write"),
        ("s3://absent/data", "cannot write to s3://absent/data"),
        ("ftp://host/data", "ftp://"),
    ]:
        with pytest.raises(MosaicDataError, match=named) as caught:
            prepare(options("fourth", url))
        assert "\n" not in str(caught.value)
        assert secret not in str(caught.value)
    for machine in ("first", "third", "work"):
        assert [path for path in (tmp_path / machine).iterdir() if path.name[0] != "."] == []


@pytest.mark.slow
def test_a_ray_cluster_of_which_a_node_is_killed(
    tmp_path: Path, tokenizer_dir: str, corpus: dict[str, Any], small_units: None
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    def options(name: str, **changes: Any) -> Any:
        more = {**corpus, "split_validation": 0.2, "output": tmp_path / name, **changes}
        if "engine" in more:
            more["processes"] = None
        return helpers.options(tmp_path, tokenizer_dir, **more)

    prepare(options("plain"))
    plain = helpers.contents(tmp_path / "plain")
    units = len(helpers.units_in(tmp_path / "plain"))
    # Processes of their own, which share a directory.
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        given = {"engine": "ray", "address": cluster.address}
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        done: list[str] = []
        closed: list[bool] = []
        real = engines._on_cluster

        def counted(*arguments: Any) -> Any:
            for unit, note in real(*arguments):
                done.append(unit.name)
                if len(done) == 2:
                    cluster.remove_node(second, allow_graceful=False)
                yield unit, note

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "_on_cluster", counted)
            # The connection stays: each starts processes, which import everything.
            patch.setattr(ray, "shutdown", lambda: closed.append(True))
            prepare(options("two", **given))
        assert closed == [True]
        assert helpers.contents(tmp_path / "two") == plain
        assert len(done) == units

        # A mistake in a worker is one line here, too.
        (tmp_path / "bad.jsonl").write_text("{")
        with pytest.raises(MosaicDataError, match=r"bad\.jsonl, line 1: is not JSON"):
            prepare(options("bad", **given, input=str(tmp_path / "bad.jsonl")))
    finally:
        if ray.is_initialized():
            ray.shutdown()
        cluster.shutdown()
    with pytest.raises(MosaicDataError, match="there is no Ray cluster"):
        prepare(options("none", engine="ray", address="127.0.0.1:1"))
