"""Builders: a configuration of any class, read by attribute."""

import http.server
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dataloader_helpers import numbers, take, write_rows

from mosaic_dataloader import (
    MosaicDataError,
    build_mosaic_dataloader,
    build_mosaic_tokenizer,
    build_mosaic_validation_dataloader,
)


@dataclass
class Loader:
    """A section as a dataclass; options left at None are not set."""

    name: str = "text"
    num_workers: int = 0
    prefetch_factor: int | None = None
    drop_last: bool = True
    dataset: Any = field(default_factory=dict)


def config(dataset: Any, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(
        training=SimpleNamespace(local_batch_size=4, seq_len=16),
        validation=SimpleNamespace(local_batch_size=8, seq_len=16),
        mosaic_dataloader=Loader(dataset=dataset),
        mosaic_validation_dataloader=Loader(dataset=dataset),
        **more,
    )


def build(job: Any, rank: int = 0, ranks: int = 1) -> Any:
    return build_mosaic_dataloader(
        dp_world_size=ranks, dp_rank=rank, tokenizer=None, job_config=job
    )


def test_sections_of_every_kind_mean_the_same(
    numbered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"shuffle": True, "shuffle_seed": 3, "max_seq_len": 16, "partition_algo": "relaxed"}
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    found = []
    for dataset in (
        {**options, "local": numbered},
        SimpleNamespace(**options, streams={"a": SimpleNamespace(local=numbered, repeat=None)}),
        {**options, "streams": {"a": {"local": numbered}}, "remote": None, "epoch_size": None},
    ):
        ranks = [build(config(dataset), r, 2) for r in range(2)]
        assert ranks[0].num_nodes == 4
        found.append([take(iter(one), 10) for one in ranks])
        assert (ranks[1].dp_rank, ranks[1].dp_world_size, ranks[1].batch_size) == (1, 2, 4)
    assert found[0] == found[1] == found[2]


def test_validation_passes_are_finite_equal_and_without_trace(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", range(101))
    loaders = [
        build_mosaic_validation_dataloader(
            dp_world_size=3, dp_rank=r, tokenizer=None, job_config=config({"local": data})
        )
        for r in range(3)
    ]
    assert {len(one) for one in loaders} == {5}
    for _ in range(2):
        passes = [[n for batch in one for n in numbers(batch)] for one in loaders]
        assert [len(p) for p in passes] == [40, 40, 40]
        assert sorted(n for p in passes for n in p if n >= 0) == list(range(101))
        # A pass that is broken off does not move the next one.
        next(iter(loaders[0]))


def test_each_stream_of_a_validation_set_is_read_as_if_it_were_the_only_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On three ranks of four machines, more machines than the second stream has samples."""
    monkeypatch.setenv("GROUP_WORLD_SIZE", "4")
    a = {"local": write_rows(tmp_path / "a", range(50))}
    b = {"local": write_rows(tmp_path / "b", range(100, 102))}
    order = {"shuffle": True, "shuffle_block_size": 1000}

    def loaders(streams: dict[str, Any], **options: Any) -> list[Any]:
        job = config({"streams": streams, **order, **options})
        return [
            build_mosaic_validation_dataloader(
                dp_world_size=3, dp_rank=rank, tokenizer=None, job_config=job
            )
            for rank in range(3)
        ]

    def rows(loader: Any) -> list[list[int]]:
        assert not loader.uneven_batches
        batches = [numbers(batch) for batch in loader]
        assert len(batches) == len(loader)
        return batches

    weighted = {"a": {**a, "choose": 30}, "none": {**b, "choose": 0}, "b": {**b, "repeat": 1.5}}
    for streams, samples, options in (
        ({"a": a, "b": b}, {"a": 50, "b": 2}, {}),
        ({"a": a, "b": b}, {"a": 50, "b": 2}, {"batching_method": "per_stream"}),
        (weighted, {"a": 30, "b": 3}, {}),
    ):
        ranks = [one.by_stream() for one in loaders(streams, **options)]
        for name, count in samples.items():
            alone = loaders({name: streams[name]}, num_canonical_nodes=min(4, count))
            expected = [rows(one) for one in alone]
            for _ in range(2):
                assert [rows(one[name]) for one in ranks] == expected
            assert sum(n >= 0 for rank in expected for batch in rank for n in batch) == count
        assert list(ranks[0]) == list(samples)
    (stratified, *_) = loaders({"a": a, "b": b}, batching_method="stratified")
    with pytest.raises(MosaicDataError, match="reads one stream after another; remove it"):
        stratified.by_stream()
    (single, *_) = loaders({"a": a}, batching_method="stratified")
    assert list(single.by_stream()) == ["a"]


@pytest.mark.parametrize(
    ("dataset", "parts"),
    [
        ({}, ["[mosaic_dataloader.dataset]", "no data", "streams"]),
        ({"local": "D", "max_seq_len": 32}, ["max_seq_len = 32", "training.seq_len = 16"]),
        ({"local": "D", "partition_algo": "orig"}, ["partition_algo", "relaxed"]),
        ({"local": "D", "shufle": True}, ["shufle"]),
        ({"local": "D", "replication": 2}, ["replication"]),
        ({"local": "D", "streams": {"a": {"local": "D"}}}, ["either streams"]),
        ({"local": "D", "cache_limit": "many"}, ["cache_limit", "many", "10gb"]),
        ({"local": "D", "epoch_size": "0"}, ["epoch_size"]),
        ({"local": "D", "on_data_change": "go"}, ["on_data_change", "restart_epoch"]),
        ({"local": "D", "predownload": -1}, ["predownload"]),
        ({"local": "D", "token_encoding_type": "float32"}, ["token_encoding_type", "int64"]),
        ({"streams": {"a": {"local": "D", "repeat": 0}}}, ["weights", "raise"]),
    ],
)
def test_mistakes_are_one_line(numbered: str, dataset: dict[str, Any], parts: list[str]) -> None:
    def with_data(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: with_data(v) for k, v in value.items()}
        return numbered if value == "D" else value

    with pytest.raises(MosaicDataError) as caught:
        build(config(with_data(dataset)))
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"num_workers": -1}, "num_workers = -1"),
        ({"prefetch_factor": 0}, "prefetch_factor = 0"),
        ({"persistent_workers": True}, "persistent_workers"),
        ({"pin_memory": True}, "pin_memory"),
        ({"name": "image"}, "image"),
    ],
)
def test_loader_options_are_checked(numbered: str, change: dict[str, Any], part: str) -> None:
    job = config({"local": numbered})
    job.mosaic_dataloader = SimpleNamespace(dataset={"local": numbered}, **change)
    with pytest.raises(MosaicDataError, match=part):
        build(job)


def tokenizer_config(name: str | None, **kwargs: Any) -> SimpleNamespace:
    return SimpleNamespace(mosaic_tokenizer=SimpleNamespace(name=name, kwargs=kwargs))


def test_the_tokenizer_speaks_torchtitans_interface(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "a": 2, "b": 7}, unk_token="<s>"))
    made.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(tmp_path)
    wrapped = build_mosaic_tokenizer(tokenizer_config(str(tmp_path), model_max_length=64))
    assert wrapped is not None
    assert wrapped.tokenizer.model_max_length == 64
    assert (wrapped.bos_id, wrapped.eos_id) == (0, 1)
    assert wrapped.encode("a b") == [0, 2, 7, 1]
    assert wrapped.encode("b", add_bos=False, add_eos=False) == [7]
    assert wrapped.decode([2, 7]) == "a b"
    # Embeddings needed, not entries counted.
    assert wrapped.get_vocab_size() == 8
    assert build_mosaic_tokenizer(tokenizer_config(None)) is None
    with pytest.raises(MosaicDataError, match=r"mosaic_tokenizer\.name") as caught:
        build_mosaic_tokenizer(tokenizer_config(str(tmp_path / "none")))
    assert "\n" not in str(caught.value)


def test_importing_the_package_loads_little() -> None:
    script = (
        "import sys, mosaic_dataloader\n"
        "heavy = {'streaming', 'transformers', 'torchtitan', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import mosaic_dataloader.dataset, mosaic_dataloader.loader\n"
        "heavy = {'transformers', 'torchtitan', 'boto3', 'pyarrow', 'datasets', 'ray'}\n"
        "heavy = (heavy | {'mosaic_prepare'}) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


ASKING = r"""
import sys
from types import SimpleNamespace
from mosaic_dataloader import MosaicDataError, build_mosaic_tokenizer
for line in sys.stdin:
    section = SimpleNamespace(name=line.rstrip("\n"), kwargs={})
    try:
        build_mosaic_tokenizer(SimpleNamespace(mosaic_tokenizer=section))
    except MosaicDataError as error:
        print(error, "transformers" in sys.modules, sep="|", flush=True)
"""


def test_a_tokenizer_that_is_not_there_is_told_at_once_and_in_one_line(tmp_path: Path) -> None:
    """A path needs no hub and no transformers; a hub that fails is asked once."""
    asked: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404 if "absent" in self.path else 503)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "file").write_text("")
    path = str(tmp_path / "none")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        alive = f"http://127.0.0.1:{server.server_port}"
        quiet = {
            k: v for k, v in os.environ.items() if k.lower() not in ("http_proxy", "all_proxy")
        }
        environment = {**quiet, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        process = subprocess.Popen(
            [sys.executable, "-c", ASKING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "HF_ENDPOINT": alive},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.writelines(f"{n}\n" for n in (path, "./none", tmp_path / "file"))
            process.stdin.write("acme/busy\n")
            process.stdin.flush()
            lines = [process.stdout.readline().rstrip("\n") for _ in range(4)]
            # Newer libraries of the hub also ask it who they are asked by.
            models = [path for path in asked if path.startswith("/api/models/")]
            assert len(models) == 1, (asked, lines)
        finally:
            server.shutdown()
            thread.join()
    assert lines[0] == (
        f"tokenizer {path!r} cannot be loaded (there is no directory {path}); correct "
        "mosaic_tokenizer.name|False"
    )
    assert "there is no directory ./none)" in lines[1]
    assert "is a file, not a directory" in lines[2]
    assert f"{alive} answers with an error (503), and the hub's cache" in lines[3]
    # Now nobody listens there.
    out, errors = process.communicate("acme/busy\n")
    assert (process.returncode, errors) == (0, "")
    (line,) = out.splitlines()
    assert re.search(rf"{alive} cannot be reached \(Connect\w*Error\), and the hub's cache", line)
