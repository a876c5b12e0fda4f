"""What is said of data before the first step: lengths of rows, shares of streams, lanes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataloader_helpers import SEQ_LEN, loader, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import MDSWriter

from mosaic_dataloader import StreamingTextDataset
from mosaic_dataloader.checks import (
    OptionNames,
    documents_per_lane,
    many_repeats,
    mixture_shares,
    row_lengths,
    too_many_repeats,
)
from mosaic_dataloader.inspect.previews import stream_counts
from mosaic_dataloader.reading.document_length import tokens_per_row


def write(out: Path, rows: list[list[int]], encoding: str, **options: Any) -> str:
    dtype = "uint16" if encoding == "bytes" else encoding.split(":")[1]
    with MDSWriter(columns={"tokens": encoding}, out=str(out), **options) as writer:
        for row in rows:
            array = np.array(row, dtype)
            writer.write({"tokens": array.tobytes() if encoding == "bytes" else array})
    return str(out)


@settings(max_examples=settings().max_examples // 4)
@given(
    length=st.integers(1, 600),
    samples=st.integers(1, 60),
    encoding=st.sampled_from(["ndarray:int32", "ndarray:uint16", "bytes", "fixed"]),
    limit=st.sampled_from([None, 3000, "20kb", 1 << 26]),
    hashes=st.sampled_from([[], ["sha1", "xxh64"]]),
)
def test_equal_rows_are_measured_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    samples: int,
    encoding: str,
    limit: int | str | None,
    hashes: list[str],
) -> None:
    """By the index alone, in shards of any size: a short one's header is most of it."""
    encoding = f"ndarray:int32:{length}" if encoding == "fixed" else encoding
    out = tmp_path_factory.mktemp("rows") / "data"
    local = write(out, [[7] * length] * samples, encoding, size_limit=limit, hashes=hashes)
    dataset = StreamingTextDataset(seq_len=32, local=local, token_encoding_type="uint16")
    assert tokens_per_row(dataset.streams[0]) == length


def lines(local: str, seq_len: int, **options: Any) -> list[str]:
    dataset = StreamingTextDataset(local=local, seq_len=seq_len, **options)
    return row_lengths(dataset, names=OptionNames("section.", "training.seq_len"))


def test_rows_of_other_lengths_are_told_with_what_is_lost(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows", [[3] * 33] * 10, "ndarray:int32")
    # Case 11 of the small ones: rows in small shards without a manifest, of the right length.
    assert lines(rows, 32) == []
    assert lines(rows, 33) == []
    (line,) = lines(rows, 15)
    assert 'rows of stream "data" hold about 33 tokens, of which training.seq_len = 15' in line
    assert "the first 16: 52% of the tokens are never trained on" in line
    assert line.endswith("if each row is a document, set section.packing = true")
    (line,) = lines(rows, 64)
    assert "hold about 33 tokens, fewer than training.seq_len = 64: 48% of what is" in line
    assert line.endswith(
        "lower training.seq_len, or if each row is a document, set section.packing = true"
    )
    assert lines(rows, 64, packing=True) == []
    unequal = write(tmp_path / "unequal", [[3] * n for n in (10, 90)], "ndarray:int32")
    (line,) = lines(unequal, 200)
    assert "hold about 50 tokens" in line


def test_tokens_of_another_type_are_not_taken_for_short_rows(tmp_path: Path) -> None:
    """Packing, or a shorter row, would be the wrong advice."""
    rows = write(tmp_path / "rows", [[3] * 129] * 12, "bytes")
    assert lines(rows, 128, token_encoding_type="uint16") == []
    (line,) = lines(rows, 128, token_encoding_type="uint8")
    assert "exactly the 129 of training.seq_len = 128 if they are int16 or uint16" in line
    assert "set section.token_encoding_type" in line
    rows = write(tmp_path / "even", [[3] * 128] * 12, "bytes")
    (line,) = lines(rows, 128)
    assert "hold about 32 tokens of type int64" in line
    assert "packing" not in line
    # Where no other type fits either, they are just short.
    (line,) = lines(rows, 500)
    assert "padding" in line


def test_texts_that_are_mostly_cut_away(tmp_path: Path, tokenizer_dir: str) -> None:
    from transformers import AutoTokenizer

    def texts(name: str, characters: int) -> str:
        with MDSWriter(columns={"text": "str"}, out=str(tmp_path / name)) as writer:
            for _ in range(20):
                writer.write({"text": "word " * (characters // 5)})
        return str(tmp_path / name)

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    long = texts("long", 4000)
    (line,) = lines(long, 99, tokenizer=tokenizer)
    assert 'texts of stream "data" have about 1,000 tokens (at 4 bytes each), of which' in line
    assert "takes the first 100: at least 90% is never trained on" in line
    assert "set section.packing = true, or raise training.seq_len" in line
    assert lines(long, 99, tokenizer=tokenizer, packing=True) == []
    # It is an estimate: what is near enough is not worth a word.
    assert lines(long, 600, tokenizer=tokenizer) == []
    assert lines(long, 1900, tokenizer=tokenizer) == []
    (line,) = lines(texts("short", 100), 100, tokenizer=tokenizer)
    assert "have about 25 tokens" in line
    assert "fewer than training.seq_len = 100: about 75% of what is computed is padding" in line


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Two streams of one shard each, of 10,000 and of 480 rows, to be mixed 7 to 3."""
    folder = tmp_path_factory.mktemp("uneven")
    large = write_rows(folder / "large", range(10_000), length=2, size_limit=None)
    small = write_rows(folder / "small", range(20_000, 20_480), length=2, size_limit=None)
    return {
        "large": {"local": large, "proportion": 0.7},
        "small": {"local": small, "proportion": 0.3},
    }


def shares(streams: Any, steps: int, step_rows: int = 8, **options: Any) -> list[str]:
    one = loader(streams, **options)
    return mixture_shares(one, steps=steps, step_rows=step_rows, names=OptionNames("section."))


@pytest.mark.parametrize(
    ("options", "share", "remedy"),
    [
        ({"shuffle_algo": "py1e"}, 0.39, 'set section.shuffle_algo = "py1br" or "feistel"'),
        ({"shuffle": False}, 1.0, "set section.shuffle = true"),
        ({"shuffle_algo": "py1br"}, None, ""),
        ({"shuffle_algo": "feistel"}, None, ""),
        ({"shuffle_algo": "naive"}, None, ""),
        ({"batching_method": "stratified"}, None, ""),
    ],
)
def test_a_run_that_is_given_other_shares_than_its_weights_is_told(
    uneven: Any, options: dict[str, Any], share: float | None, remedy: str
) -> None:
    told = shares(uneven, 60, **options)
    iterator = iter(loader(uneven, **options))
    rows = np.concatenate([next(iterator)[0]["input"][:, 0].numpy() for _ in range(60)])
    if share is None:
        assert told == []
        return
    (line,) = told
    # The figure is what the loader hands out: rows of the large stream have smaller numbers.
    assert "of the 480 of the 60 steps" in line
    large = (rows < 20_000).mean()
    assert abs(large - share) < 0.05
    stream, is_to, gives = ("large", 70, large) if "large" in line else ("small", 30, 1 - large)
    assert f'stream "{stream}" is to give {is_to}% of the rows, and gives {gives:.0%}' in line
    assert remedy in line


def test_shares_over_a_long_run_and_over_its_first_thousand_steps(uneven: Any) -> None:
    # 10,480 rows are an epoch, in which every share is exact.
    (line,) = shares(uneven, 10_480, 1, shuffle_algo="py1e")
    assert "of the 1,000 of the first 1,000 steps" in line
    assert shares(uneven, 10_480, 1, shuffle_algo="py1br") == []
    assert shares(uneven, 100_000, 1, shuffle_algo="py1br") == []
    assert shares(uneven, 1000, 10_480, shuffle_algo="py1e") == []
    assert shares({"one": uneven["large"] | {"proportion": None}}, 60, shuffle=False) == []


def test_counts_of_whole_epochs_are_those_of_their_rows(uneven: Any) -> None:
    from mosaic_dataloader.checks.mixture import _counts

    one = loader(uneven, shuffle_algo="py1e", skip_samples=104)
    for samples in (8, 10_000, 30_000, 50_000):
        expected = stream_counts(one, 104, -(-samples // 8))[: samples // 8].sum(axis=0)
        assert _counts(one, samples).tolist() == expected.tolist()


@pytest.mark.parametrize("order", ["epochs", "stages"])
@pytest.mark.parametrize("skip", [[], ["100:20000", "30000:30017"]])
def test_streams_that_would_be_seen_too_often(uneven: Any, order: str, skip: list[str]) -> None:
    """The figure is what loaders hand out, before and after a resume."""
    streams, options = uneven, dict[str, Any](skip=skip, shuffle_algo="py1br")
    if order == "stages":
        streams = {name: {"local": stream["local"]} for name, stream in uneven.items()}
        weights = [{"large": 0.9, "small": 0.1}, {"large": 0.7, "small": 0.3}]
        options["stages"] = [{"samples": 900, "weights": weights[0]}, {"weights": weights[1]}]
    run = loader(streams, batch_size=1000, **options)
    iterator = iter(run)
    rows = np.concatenate([next(iterator)[0]["input"][:, 0].numpy() for _ in range(12)])
    small = int((rows >= 20_000).sum())
    run.close()
    before = loader(streams, batch_size=1000, **options)
    next(iter(before))
    state = before.state_dict()
    before.close()

    def lines(limit: float | None, check: Any, own: float | None = None) -> list[str]:
        given = {name: {**stream} for name, stream in streams.items()}
        given["small"]["max_repeats"] = own
        found = []
        for done in (0, 1):
            one = loader(given, batch_size=1000, max_repeats=limit, **options)
            if done:
                one.load_state_dict(state)
            found.append(check(one, steps=12 - done, step_rows=1000, names=OptionNames("section.")))
        # The same, wherever in the run it is asked.
        assert found[0] == found[1]
        assert all("\n" not in line for line in found[0])
        return list(found[0])

    (line,) = lines((small - 1) / 480, too_many_repeats)
    assert f'stream "small" is seen {small / 480:.3g} times by the end of the run' in line
    assert f"({small:,} draws from 480 samples)" in line
    assert "raise section.max_repeats or the stream's own" in line
    assert lines(small / 480, too_many_repeats) == []
    assert lines(None, too_many_repeats) == []
    # A stream's own limit wins.
    assert lines(0.5, too_many_repeats, own=small / 480)[0].startswith('stream "large"')
    assert lines(None, too_many_repeats, own=2)[0].startswith('stream "small"')
    # Without a limit, four times.
    (line,) = lines(None, many_repeats)
    assert "set section.max_repeats to what is intended" in line
    assert lines(None, many_repeats, own=50) == []
    assert lines(20, many_repeats) == []


def test_where_each_epoch_picks_the_same_samples(uneven: Any) -> None:
    halves = {name: {"local": s["local"], "repeat": 0.5} for name, s in uneven.items()}
    for options, times in (({"sampling_method": "fixed"}, 6), ({}, 3)):
        one = loader(halves, max_repeats=2.9, **options)
        found = too_many_repeats(one, steps=6 * 5240 // 8, step_rows=8)
        assert [f"is seen {times} times" in line for line in found] == [True, True]
    assert not too_many_repeats(one, steps=0, step_rows=8)


@pytest.mark.parametrize("stages", [None, [{"weights": {"short": 0.5, "long": 0.5}}]])
def test_packed_documents_are_about_as_often(tmp_path: Path, stages: Any) -> None:
    streams: Any = {
        "short": {"local": write_rows(tmp_path / "short", range(40), length=50)},
        "long": {"local": write_rows(tmp_path / "long", range(6), length=500)},
    }
    options: dict[str, Any] = {"packing": True, "packing_lanes": 4, "stages": stages}
    one = loader(streams, **options, max_repeats=0.001)
    done = 300
    iterator = iter(one)
    for _ in range(done):
        next(iterator)
    state, seen = one.state_dict(), one.samples_per_stream
    one.close()
    again = loader(streams, **options, max_repeats=0.001)
    planned = too_many_repeats(again, steps=done, step_rows=8)
    again.load_state_dict(state)
    resumed = too_many_repeats(again, steps=1, step_rows=1)
    for lines in (planned, resumed):
        for line, (name, size) in zip(lines, (("short", 40), ("long", 6)), strict=True):
            assert line.startswith(f'stream "{name}" is seen about ')
            times = float(line.split("about ")[1].split()[0])
            assert times == pytest.approx(seen[name] / size, rel=0.15)


def test_few_documents_for_many_lanes(tmp_path: Path) -> None:
    short = write_rows(tmp_path / "short", range(661), length=9)
    one = loader(short, packing=True, dp_world_size=2)
    (line,) = documents_per_lane(one, names=OptionNames("section."))
    assert "an epoch of 661 documents has 0.69 for each of 960 packing lanes" in line
    assert "rows repeat earlier ones: set section.packing_lanes = 64" in line
    # As many as that are enough, and so is one for each rank.
    assert documents_per_lane(loader(short, packing=True, packing_lanes=64)) == []
    assert documents_per_lane(loader(short, packing=True, packing_lanes=2, dp_world_size=2)) == []
    assert documents_per_lane(loader(short)) == []
    (line,) = documents_per_lane(loader(short, packing=True, packing_lanes=128))
    assert "has 5.2 for each of 128 packing lanes" in line
    assert "some are read again before others are read at all" in line


def test_the_rows_that_are_said_to_repeat_do(tmp_path: Path) -> None:
    """Documents as long as a row: after as many rows as documents all that comes is known."""
    documents = write_rows(tmp_path / "documents", range(100), length=SEQ_LEN + 1)
    one = loader(documents, packing=True, packing_lanes=240, shuffle=True)
    (line,) = documents_per_lane(one)
    assert "about 140 of the first 240 rows repeat earlier ones" in line
    iterator = iter(one)
    firsts: list[int] = []
    for _ in range(30):
        firsts += next(iterator)[0]["input"][:, 0].tolist()
    assert len(firsts) - len(set(firsts)) == 140
