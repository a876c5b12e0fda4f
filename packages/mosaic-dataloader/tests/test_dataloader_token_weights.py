"""Weights that count tokens: where mean lengths come from, what follows of them, and resumes."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import packing_helpers as packing
import pytest
import torch.distributed.checkpoint as dcp
from dataloader_helpers import loader, write_rows

from mosaic_dataloader import MosaicDataError, MosaicParallelAwareDataloader, StreamingTextDataset
from mosaic_dataloader import dataset as dataset_module
from mosaic_dataloader.reading import token_means
from mosaic_dataloader.validation import ValidationDataloader

Streams = dict[str, dict[str, Any]]
EVEN = {"weights_in": "tokens"}


def manifest(folder: str, tokens: int, form: str = "documents") -> None:
    """What `mosaic-prepare` notes beside the shards, as far as it is read for this."""
    note = {"complete": True, "form": form, "facts": {"tokens": tokens}, "options": {"seq_len": 16}}
    Path(folder, "manifest.json").write_text(json.dumps(note))


def weighted(folders: dict[str, str], **proportions: float) -> Streams:
    return {
        name: {"local": folder, "proportion": proportions.get(name, 1.0)}
        for name, folder in folders.items()
    }


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Documents of 30 and about 300 tokens: stored tokens, and text."""
    root = tmp_path_factory.mktemp("documents")
    rng = np.random.default_rng(0)
    short = [rng.integers(10, 30_000, 30).tolist() for _ in range(1500)]
    long = [rng.integers(10, 30_000, n).tolist() for n in rng.integers(100, 500, 300)]
    return {
        "short": packing.write_tokens(root / "short", short, size_limit=20_000),
        "long": packing.write_tokens(root / "long", long, size_limit=40_000),
        "text": packing.write_text(root / "text", long[::-1]),
    }


def token_shares(one: MosaicParallelAwareDataloader, rows: int) -> dict[str, float]:
    batches = iter(one)
    for _ in range(rows // one.batch_size):
        next(batches)
    counts = one.tokens_per_stream
    one.close()
    return {name: count / sum(counts.values()) for name, count in counts.items()}


def rows_of(one: MosaicParallelAwareDataloader, batches: int) -> list[packing.Row]:
    iterator = iter(one)
    return [row for _ in range(batches) for row in packing.rows_of(next(iterator))]


@pytest.mark.parametrize("names", [("short", "long"), ("short", "text")])
def test_proportions_count_tokens(
    documents: dict[str, str], names: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Through whole epochs of packed documents; with EOS, which stored tokens lack here."""
    chosen = {name: documents[name] for name in names}
    tokenizer = packing.tokenizer() if "text" in names else None
    options: dict[str, Any] = {"packing_lanes": 4, "batch_size": 64, "tokenizer": tokenizer}
    # An epoch has 1,800 documents: 500 of about 300 tokens or, by tokens, 163 of them.
    by_samples = token_shares(
        packing.packed(weighted(chosen), epoch_size=2200, **options), 2200 * 165 // 16
    )
    assert by_samples["short"] == pytest.approx(1 / 11, abs=0.01)
    with caplog.at_level(logging.INFO):
        one = packing.packed(weighted(chosen), epoch_size=2200, **EVEN, **options)
        by_tokens = token_shares(one, 2200 * 54 // 16)
        assert list(iter(one).__next__())
    assert by_tokens["short"] == pytest.approx(0.5, abs=0.015)
    lines = [r.getMessage() for r in caplog.records if "mean tokens" in r.getMessage()]
    assert len(lines) == 1
    if tokenizer is None:
        assert lines[0].startswith('mean tokens of a sample by stream: "short" 30.0 (the sizes in')
    else:
        assert '"short" 31.0 (measured on ' in lines[0]
        assert '"text" 29' in lines[0]
        # 293.3 tokens and EOS.
        assert one.run.source.order.means[1].millitokens == pytest.approx(294_300, rel=0.005)
    one.close()


def test_rows_count_what_is_trained_on_of_them(tmp_path: Path) -> None:
    """Of rows of 17 and 40 tokens 16 are targets, of rows of 9 tokens 8."""
    folders = {
        "full": write_rows(tmp_path / "full", range(300)),
        "cut": write_rows(tmp_path / "cut", range(300), length=40),
        "fixed": write_rows(
            tmp_path / "fixed", range(300), length=9, columns={"tokens": "ndarray:int32:9"}
        ),
    }
    one = loader(weighted(folders), **EVEN)
    means = one.run.source.order.means
    assert [mean.millitokens for mean in means] == [16_000, 16_000, 8_000]
    assert [mean.source for mean in means[1:]] == [
        "measured on 300 of its 300 samples",
        "the sizes in its index",
    ]
    assert [size.choose for size in one.mixture.streams] == [225, 225, 450]
    # A validation pass weighs its streams in the same way.
    dataset = StreamingTextDataset(seq_len=16, streams=weighted(folders), **EVEN)
    validation = ValidationDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=100)
    assert len(validation) == 9
    targets = sum(int((labels >= 0).sum()) for _, labels in validation)
    assert targets == 450 * 16 + 450 * 8
    for each in (one, validation):
        each.close()


def test_a_manifest_tells_first(documents: dict[str, str], tmp_path: Path) -> None:
    folders = {
        "short": packing.write_tokens(tmp_path / "short", [[7] * 30] * 100),
        "long": packing.write_tokens(tmp_path / "long", [[7] * 300] * 100),
    }
    manifest(folders["short"], 100 * 60)
    one = packing.packed(weighted(folders), packing_lanes=4, **EVEN)
    assert [(m.millitokens, m.source) for m in one.run.source.order.means] == [
        (60_000, "its manifest"),
        (300_000, "the sizes in its index"),
    ]
    one.close()
    # Of rows, it counts each token once, as they are trained on.
    rows = {"rows": write_rows(tmp_path / "rows", range(100))}
    manifest(rows["rows"], 100 * 15, "rows")
    one = loader(weighted(rows), **EVEN)
    assert one.run.source.order.means[0].millitokens == 15_000
    one.close()


@pytest.mark.parametrize("stages", [False, True])
def test_a_resume_measures_nothing_and_goes_by_what_is_kept(
    documents: dict[str, str],
    stages: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    chosen = {name: documents[name] for name in ("short", "text")}
    streams = {n: {"local": f} for n, f in chosen.items()} if stages else weighted(chosen)
    options: dict[str, Any] = {"packing_lanes": 4, "tokenizer": packing.tokenizer(), **EVEN}
    if stages:
        options["stages"] = [{"weights": {"short": 0.5, "text": 0.5}}]
    ranks = packing.Ranks(streams, 2, **options)
    # Before its first batch nothing is measured for a state, and a state keeps nothing.
    early = {k: v for one in ranks.loaders for k, v in one.state_dict().items()}
    ranks.batches(40)
    state = ranks.state
    following = ranks.batches(20)
    means = [mean.millitokens for mean in ranks.loaders[0].run.source.order.means]
    assert means[0] == 31_000
    ranks.close()
    again = packing.Ranks(streams, 2, **options).load(early)
    again.batches(40)
    assert again.batches(20) == following
    again.close()

    def refuse(*_: Any) -> None:
        raise AssertionError("a resume measures")

    monkeypatch.setattr(dataset_module, "measured_mean", refuse)
    monkeypatch.setattr(token_means, "_SAMPLES", 1)
    one = packing.packed(streams, batch_size=16, **options)
    # torch asks for a state before it loads one.
    dcp.save({"dataloader": state}, checkpoint_id=tmp_path, no_dist=True)
    with caplog.at_level(logging.INFO):
        dcp.load({"dataloader": one}, checkpoint_id=tmp_path, no_dist=True)
        found = rows_of(one, 20)
    assert [sorted(found[at : at + 16]) for at in range(0, len(found), 16)] == following
    line = next(r.getMessage() for r in caplog.records if "mean tokens" in r.getMessage())
    assert '"short" 31.0 (the checkpoint), "text" ' in line
    kept = one.state_dict()
    one.close()
    entries = json.loads(kept["mosaic"])
    entries = entries["stages"]["streams"] if stages else entries["streams"]
    assert [entry["millitokens"] for entry in entries] == means


def test_what_is_kept_wins_over_another_manifest(tmp_path: Path) -> None:
    folders = {
        "short": packing.write_tokens(tmp_path / "short", packing.documents(300, 1)),
        "long": packing.write_tokens(tmp_path / "long", packing.documents(300, 2)),
    }
    for folder in folders.values():
        manifest(folder, 300 * 25)
    options: dict[str, Any] = {"packing_lanes": 4, **EVEN}
    one = packing.packed(weighted(folders), **options)
    rows_of(one, 10)
    state = one.state_dict()
    following = rows_of(one, 30)
    manifest(folders["long"], 300 * 200)
    again = packing.packed(weighted(folders), **options)
    assert [size.choose for size in again.mixture.streams] == [533, 67]
    again.load_state_dict(state)
    assert [size.choose for size in again.mixture.streams] == [300, 300]
    assert rows_of(again, 30) == following
    # Begun again, the epoch is one of the present data.
    restarted = packing.packed(
        weighted(folders, long=2.0), on_data_change="restart_epoch", **options
    )
    restarted.load_state_dict(state)
    assert [size.choose for size in restarted.mixture.streams] == [480, 120]
    with pytest.raises(MosaicDataError, match='"short" gave 300 samples an epoch and now gives'):
        packing.packed(weighted(folders, long=2.0), **options).load_state_dict(state)
    with pytest.raises(MosaicDataError, match="weights_in was 'tokens' and is now 'samples'"):
        packing.packed(weighted(folders), packing_lanes=4).load_state_dict(state)
    for each in (one, again, restarted):
        each.close()
    plain = packing.packed(weighted(folders), packing_lanes=4)
    with pytest.raises(MosaicDataError, match="weights_in was 'samples' and is now 'tokens'"):
        packing.packed(weighted(folders), **options).load_state_dict(plain.state_dict())


def test_weights_in_tokens_need_weights(documents: dict[str, str]) -> None:
    streams = {name: {"local": documents[name]} for name in ("short", "long")}
    for given in (streams, {name: {**one, "repeat": 2.0} for name, one in streams.items()}):
        with pytest.raises(
            MosaicDataError, match='weights_in = "tokens" has no meaning without weights: give'
        ):
            packing.packed(given, **EVEN)


def test_shares_of_tokens_are_the_weights_for_documents_of_lognormal_lengths(
    tmp_path: Path,
) -> None:
    """Within 1 % after 20,000 rows in 960 lanes; what remains is said in docs/mixtures.md."""
    rng = np.random.default_rng(3)
    streams = {}
    for name, mean, count in (("short", 30, 12_000), ("long", 120, 3_000)):
        lengths = np.maximum(1, rng.lognormal(np.log(mean) - 0.5, 1.0, count)).astype(int)
        written = [[7] * length for length in lengths.tolist()]
        streams[name] = {
            "local": packing.write_tokens(tmp_path / name, written, size_limit=1 << 16)
        }
    dataset = StreamingTextDataset(
        seq_len=200,
        streams=streams,
        shuffle=True,
        packing=True,
        token_encoding_type="int32",
        stages=[{"weights": {"short": 0.6, "long": 0.4}}],
        **EVEN,
    )
    one = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=200)
    assert token_shares(one, 20_000)["long"] == pytest.approx(0.4, abs=0.01)
