"""A state knows its run: what version 1 wrote continues, and nothing else passes for a run."""

import json
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import packing_helpers as packing
import pytest
from dataloader_helpers import Ranks, joined, loader, take
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import MDSWriter

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.order import feistel, sequence
from mosaic_dataloader.state.identity import RowIdentity, StreamIdentity, sampled
from mosaic_dataloader.state.json_form import sealed

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

import make_states

WRITTEN: dict[int, dict[str, Any]] = {
    version: json.loads((make_states.FOLDER / f"states_v{version}.json").read_text())
    for version in (1, 2, 3)
}
CASES = {**make_states.CASES, **make_states.STAGE_CASES}
# Each by the layout that wrote it, and those of several ranks by a single one as well.
LAYOUTS = [
    (version, name, ranks)
    for version in WRITTEN
    for name in WRITTEN[version]
    for ranks in sorted({1, CASES[name].ranks})
]


@pytest.fixture(scope="session")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of the fixtures."""
    root = tmp_path_factory.mktemp("fixed")
    make_states.write_data(root)
    return root


@pytest.mark.parametrize(("version", "name", "ranks"), LAYOUTS)
def test_states_of_all_versions_continue_exactly(
    version: int, name: str, ranks: int, fixed: Path, tmp_path: Path
) -> None:
    case = CASES[name]
    loaders = make_states.open_case(case, fixed, tmp_path, ranks)
    for one in loaders:
        one.load_state_dict(WRITTEN[version][name]["state"])
    state = make_states.joined_state(loaders)
    assert json.loads(state["mosaic"])["version"] == 3
    again = make_states.open_case(case, fixed, tmp_path, ranks)
    for one in again:
        one.load_state_dict(state)
    assert make_states.joined_state(again) == state
    assert make_states.rows_of(loaders, case) == WRITTEN[version][name]["batches"]
    assert make_states.rows_of(again, case) == WRITTEN[version][name]["batches"]


def test_a_state_of_version_1_knows_its_tokenizer(fixed: Path, tmp_path: Path) -> None:
    """By its definition, which was what that version held."""
    case = make_states.CASES["text"]
    (one,) = make_states.open_case(case, fixed, tmp_path)
    tokenizer = one.dataset.tokenizer
    assert tokenizer is not None
    tokenizer.fast.add_tokens(["another"])
    with pytest.raises(MosaicDataError, match=r"tokenizer_definition was '[0-9a-f]+' and is now"):
        one.load_state_dict(WRITTEN[1]["text"]["state"])


def edited(state: dict[str, str], change: Callable[[dict[str, Any]], None]) -> dict[str, str]:
    """A state with other content and the right checksum."""
    content = json.loads(state["mosaic"])
    del content["checksum"]
    change(content)
    return {**state, "mosaic": sealed(content)}


def refused(one: Any, state: dict[str, str]) -> str:
    """The one line with which a loader refuses a state, and stays as it was."""
    before = one.samples_seen
    with pytest.raises(MosaicDataError) as caught:
        one.load_state_dict(state)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700, message
    assert one.samples_seen == before
    return message


def test_what_a_state_may_lack(fixed: Path, tmp_path: Path) -> None:
    """A field that was added later, and has a default, does not refuse the states before it."""
    case = make_states.CASES["text"]
    (one,) = make_states.open_case(case, fixed, tmp_path)
    iterator = iter(one)
    for _ in range(9):
        next(iterator)
    state = one.state_dict()
    optional = {
        cls: [f.name for f in fields(cls) if f.default is not MISSING]
        for cls in (RowIdentity, StreamIdentity)
    }
    dropped: list[tuple[Callable[[dict[str, Any]], list[dict[str, Any]]], str]] = [
        *((lambda c: [c["rows"]], name) for name in optional[RowIdentity]),
        *((lambda c: c["streams"], name) for name in optional[StreamIdentity]),
        *((lambda c: [c["order"]], name) for name in ("unit", "device_unit", "unit_nodes")),
        *((lambda c: [c], name) for name in ("libraries", "probe", "skipped", "tokens_at")),
    ]
    found = Counter[str]()
    for parts, name in dropped:

        def drop(content: dict[str, Any], parts: Any = parts, name: str = name) -> None:
            for part in parts(content):
                found[name] += part.pop(name, None) is not None

        (fresh,) = make_states.open_case(case, fixed, tmp_path)
        fresh.load_state_dict(edited(state, drop))
        assert fresh.samples_seen == one.samples_seen
    # What a run with text and streams without hashes holds was really dropped.
    names = {"tokenizer", "tokenizer_encoding", "content", "probe", "libraries", "unit", "skipped"}
    assert names <= {name for name, count in found.items() if count}


def _wrong_values() -> list[tuple[str, Callable[[dict[str, Any]], None]]]:
    def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            *parents, last = path
            at: Any = content
            for key in parents:
                at = at[key]
            at[last] = value

        return change

    return [
        ("a field 'surplus', which this release does not know", put("surplus", value=1)),
        ("order has a field 'new'", put("order", "new", value=3)),
        ("rows has a field", put("rows", "x" * 500 + "\n", value=3)),
        ("stream 0 has a field", put("streams", 0, "more", value=None)),
        ("samples_seen = '8', not a whole number", put("samples_seen", value="8")),
        ("samples_seen = True", put("samples_seen", value=True)),
        ("samples_seen = 1.5", put("samples_seen", value=1.5)),
        ("samples_seen = -8, which is out of range", put("samples_seen", value=-8)),
        ("a huge number", put("samples_seen", value=10**400)),
        ("out of range", put("streams", 0, "seen", value=1 << 70)),
        ("num_canonical_nodes = 0 must", put("order", "num_canonical_nodes", value=0)),
        ("shuffle_block_size = 1 must", put("order", "shuffle_block_size", value=1)),
        ("order is a list, not an object", put("order", value=[])),
        ("streams is an object, not a list", put("streams", value={})),
        ("stream 0 is 7, not an object", put("streams", 0, value=7)),
        ("origin is None", put("origin", value=None)),
        ("origin 9,000 is after", put("origin", value={"samples": 9000, "epoch": 1})),
        ("tokens_at", put("tokens_at", value=1 << 40)),
        ("the streams were", put("streams", value=[])),
        ("probe = 5, not text", put("probe", value=5)),
        ("is computed otherwise", put("samples_seen", value=1 << 52)),
        ("cannot be spread over", put("order", "num_canonical_nodes", value=1 << 52)),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_a_state_is_data_from_outside(numbered: str, packed: bool) -> None:
    """With a checksum that is right: what counts is what it holds."""
    options: dict[str, Any] = {"packing": True, "packing_lanes": 12} if packed else {}
    one = loader(numbered, **options)
    iterator = iter(one)
    for _ in range(3):
        next(iterator)
    state = one.state_dict()
    for words, change in _wrong_values():
        if packed and words == "is computed otherwise":
            words = "take both from the same checkpoint"
        assert words in refused(one, edited(state, change)), words
    for text in ["[" * 100_000, '{"version": ' + "9" * 5000 + "}", "null", '"x"', "{}", "NaN", ""]:
        refused(one, {**state, "mosaic": text})
        if packed:
            refused(one, {**state, "lane_0002": text})
    assert "not a mapping" in refused(one, ["mosaic"])  # type: ignore[arg-type]
    if packed:
        # Nothing is made for lanes that nobody has.
        other = loader(numbered, packing=True)
        many = edited(state, lambda content: content.update(packing_lanes=1 << 50))
        assert "no lane_0012" in refused(other, many)
        lane = json.loads(state["lane_0002"])
        del lane["checksum"]
        for key, value in [("finished", [1, 2]), ("finished", [-1]), ("offset", "x"), ("new", 1)]:
            refused(one, {**state, "lane_0002": sealed({**lane, key: value})})
    one.load_state_dict(state)
    one.close()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


@settings(max_examples=settings().max_examples // 2)
@given(data=st.data(), value=json_values, version=st.sampled_from([1, 2]))
def test_no_state_raises_anything_else(
    numbered: str, data: st.DataObject, value: Any, version: int
) -> None:
    """One value of a right state replaced by any other: it loads, or is refused in one line."""
    one = loader(numbered)
    next(iter(one))
    state = one.state_dict()

    def change(content: dict[str, Any]) -> None:
        at: Any = content
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and at[key] and data.draw(st.booleans()):
                at = at[key]
                continue
            at[key] = value
            break

    try:
        fresh = loader(numbered)
        fresh.load_state_dict(edited(state, change))
        next(iter(fresh))
    except MosaicDataError as error:
        assert "\n" not in str(error)
    one.close()


def backwards(monkeypatch: pytest.MonkeyPatch, algo: str) -> None:
    """Compute every order otherwise, as another release of a library might."""
    if algo == "feistel":
        monkeypatch.setattr(feistel, "_WINDOW", 99)
        return
    import streaming.base.shuffle as shuffle

    right = shuffle.get_shuffle
    monkeypatch.setattr(shuffle, "get_shuffle", lambda *args: np.asarray(right(*args))[::-1].copy())


@pytest.mark.parametrize(
    ("algo", "method", "ranks", "batch_size", "batches"),
    [
        ("py1e", "random", 2, 8, 20),
        ("py1e", "random", 1, 63, 20),  # an epoch's end
        ("py1s", "random", 4, 4, 130),
        ("feistel", "random", 2, 8, 100),
        ("py1e", "stratified", 2, 8, 20),
        ("naive", "per_stream", 2, 8, 90),
        ("feistel", "stratified", 2, 8, 20),
    ],
)
def test_an_order_that_is_computed_otherwise_is_refused(
    numbered: str,
    second: str,
    monkeypatch: pytest.MonkeyPatch,
    algo: str,
    method: str,
    ranks: int,
    batch_size: int,
    batches: int,
) -> None:
    streams = {"a": {"local": numbered}, "b": {"local": second}}
    options = {"shuffle_algo": algo, "batching_method": method, "num_canonical_nodes": 2}
    options["shuffle_block_size"] = 200
    run = Ranks(streams, ranks, batch_size=batch_size, **options)
    run.batches(batches)
    state = run.state
    run.close()
    global_batch = ranks * batch_size
    # By any layout; where the order does not depend on it, with another global batch, too.
    layouts = [(1, global_batch), (ranks, batch_size)]
    layouts += [(3, 5)] if method == "random" else []
    for world_size, size in layouts:
        Ranks(streams, world_size, batch_size=size, **options).load(state).close()
    backwards(monkeypatch, algo)
    position = global_batch * batches
    for world_size, size in layouts:
        other = Ranks(streams, world_size, batch_size=size, **options)
        message = refused(other.loaders[-1], state)
        assert f"from position {position:,} on, the order is computed otherwise" in message
    # On purpose, the epoch restarts.
    anew = loader(streams, batch_size=global_batch, on_data_change="restart_epoch", **options)
    anew.load_state_dict(state)
    assert anew.samples_seen == position == anew.first_position
    # Before the first batch there is nothing that could go on elsewhere.
    monkeypatch.undo()
    early = loader(streams, batch_size=global_batch, **options).state_dict()
    assert "probe" not in json.loads(early["mosaic"])
    backwards(monkeypatch, algo)
    loader(streams, batch_size=global_batch, **options).load_state_dict(early)


@pytest.mark.parametrize("algo", ["py1e", "feistel"])
@pytest.mark.parametrize("batches", [3, 110])
def test_packed_lanes_refuse_an_order_that_is_computed_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algo: str, batches: int
) -> None:
    local = packing.write_tokens(tmp_path / "data", packing.documents(300, 1))
    options = {"shuffle_algo": algo, "shuffle_block_size": 60, "packing_lanes": 12}
    run = packing.Ranks(local, 2, batch_size=6, **options)
    run.batches(batches)
    state = run.state
    packing.Ranks(local, 3, batch_size=2, **options).load(state)
    backwards(monkeypatch, algo)
    for world_size in (1, 3):
        other = packing.Ranks(local, world_size, batch_size=2, **options)
        for one in other.loaders:
            assert "is computed otherwise" in refused(one, state)
    assert "written with 'numpy 1.0', now mosaicml-streaming" in refused(
        other.loaders[0], edited(state, lambda content: content.update(libraries="numpy 1.0"))
    )


def test_the_probe_builds_no_order_that_is_not_needed(
    numbered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each once, however often and from whichever thread a state is asked for."""
    built = Counter[int]()
    right = sequence.build_epoch

    def build(mixture: Any, options: Any, epoch: int) -> Any:
        built[epoch] += 1
        return right(mixture, options, epoch)

    monkeypatch.setattr(sequence, "build_epoch", build)
    one = loader(numbered, prefetch_factor=2)
    one.state_dict()
    assert not built
    iterator = iter(one)
    stop = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            # Threads that never wait would keep Python's lock from those that read.
            while not stop.wait(1e-3):
                one.state_dict()
        except BaseException as error:
            failed.append(error)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    # Three epochs and a few batches, up to which 2 are read ahead.
    take(iterator, 3 * 1003 // 8 + 4)
    stop.set()
    for thread in asking:
        thread.join()
    assert not failed
    state = one.state_dict()
    assert {0, 1, 2, 3} <= set(built)
    assert set(built.values()) == {1}
    one.close()
    built.clear()
    late = loader(numbered)
    late.load_state_dict(state)
    late.state_dict()
    assert take(iter(late), 2) == take(iter(one), 2)
    assert built[3] == 1
    late.close()
    one.close()


def write(out: Path, add: int, kind: str, **options: Any) -> str:
    """Data of equal sizes, whatever is added to each token."""
    columns = {"text": "str"} if kind == "text" else {"tokens": "ndarray:int32"}
    with MDSWriter(out=str(out), columns=columns, size_limit=4000, **options) as writer:
        for number in range(200):
            token = 100 + (number + add) % 200
            if kind == "text":
                writer.write({"text": " ".join(["w17"] * 9 + [f"w{token}"])})
            else:
                writer.write({"tokens": np.full(17, token, np.int32)})
    return str(out)


@pytest.mark.parametrize("kind", ["tokens", "text"])
def test_data_of_equal_sizes_are_told_apart(tmp_path: Path, kind: str) -> None:
    first = write(tmp_path / "first", 0, kind)
    other = write(tmp_path / "other", 50, kind)
    assert [len(p.read_bytes()) for p in sorted(Path(first).glob("*.mds"))] == [
        len(p.read_bytes()) for p in sorted(Path(other).glob("*.mds"))
    ]
    options: dict[str, Any] = {"tokenizer": packing.tokenizer()} if kind == "text" else {}
    one = loader({"a": {"local": first}}, **options)
    next(iter(one))
    state = one.state_dict()
    message = refused(loader({"a": {"local": other}}, **options), state)
    assert 'the data of stream "a" changed (samples and shards of the same sizes' in message
    # The same data, fetched from elsewhere under another name, by a rank that has read nothing yet.
    cache = tmp_path / "cache"
    moved = loader(
        {"b": {"remote": first, "local": str(cache)}}, dp_rank=1, dp_world_size=2, **options
    )
    moved.load_state_dict(state)
    # One shard was all that had to be fetched for it.
    assert len(list(cache.glob("*.mds"))) == 1
    same = json.loads(moved.state_dict()["mosaic"])
    assert same["streams"][0]["content"] == json.loads(state["mosaic"])["streams"][0]["content"]
    one.close()
    moved.close()


def test_hashes_in_an_index_are_enough(tmp_path: Path) -> None:
    """Nothing is fetched for streams that have them, and nothing at all before the first batch."""
    hashed = write(tmp_path / "hashed", 0, "tokens", hashes=["sha1"])
    bare = write(tmp_path / "bare", 0, "tokens")
    cache = tmp_path / "cache"
    streams = {
        "hashed": {"remote": hashed, "local": str(cache / "hashed")},
        "bare": {"remote": bare, "local": str(cache / "bare")},
    }
    one = loader(streams, predownload=0, shuffle=False)
    assert all("content" not in s for s in json.loads(one.state_dict()["mosaic"])["streams"])
    assert not list(cache.rglob("*.mds"))
    take(iter(one), 2)
    found = json.loads(one.state_dict()["mosaic"])["streams"]
    assert ["content" in stream for stream in found] == [False, True]
    place = sampled(one.dataset.streams[1])
    assert place
    assert sampled(one.dataset.streams[0]) is None
    assert [p.name for p in (cache / "bare").glob("*.mds")] == [f"shard.{place.shard:05}.mds"]
    one.close()


def test_a_checkpoint_is_saved_though_its_samples_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = write(tmp_path / "bare", 0, "tokens")
    whole = loader(bare)
    next(iter(whole))
    known = whole.state_dict()
    streams = {"bare": {"remote": bare, "local": str(tmp_path / "cache"), "download_retry": 0}}
    one = loader(streams, predownload=0, shuffle=False)
    place = sampled(one.dataset.streams[0])
    assert place
    (Path(bare) / f"shard.{place.shard:05}.mds").unlink()
    take(iter(one), 1)
    state = one.state_dict()
    assert "does not hold what identifies streams without hashes" in caplog.text
    loader(streams, shuffle=False).load_state_dict(state)
    # A state that holds it cannot be taken on trust.
    assert "shard" in refused(loader(streams), known)
    one.close()
    whole.close()


def test_a_tokenizer_is_known_by_what_it_does(tmp_path: Path) -> None:
    local = write(tmp_path / "text", 0, "text")
    one = loader(local, tokenizer=packing.tokenizer())
    next(iter(one))
    state = one.state_dict()
    # Another definition of the same: a bare tokenizer, with a truncation that is not used.
    bare = packing.tokenizer().backend_tokenizer
    bare.enable_truncation(5)
    loader(local, tokenizer=bare).load_state_dict(state)
    for template in ("$A", "<s> $A </s>"):
        other = packing.tokenizer(template)
        message = refused(loader(local, tokenizer=other), state)
        assert "tokenizer_encoding was" in message
    grown = packing.tokenizer()
    grown.add_tokens(["another"])
    assert "tokenizer_encoding was" in refused(loader(local, tokenizer=grown), state)
    swapped = json.loads(packing.tokenizer().backend_tokenizer.to_str())
    vocabulary = swapped["model"]["vocab"]
    vocabulary["w17"], vocabulary["w18"] = vocabulary["w18"], vocabulary["w17"]
    other = type(bare).from_str(json.dumps(swapped))
    assert "tokenizer was" in refused(loader(local, tokenizer=other), state)
    one.close()


def test_a_resume_by_other_ranks_holds_what_the_first_held(numbered: str) -> None:
    """Identity and probe are the same on every rank, and after any layout."""
    two = Ranks(numbered, 2, batch_size=8)
    two.batches(5)
    four = Ranks(numbered, 4, batch_size=4).load(two.state)
    assert four.state == two.state
    assert len({one.state_dict()["mosaic"] for one in four.loaders}) == 1
    expected = [joined(batch) for batch in two.batches(3)]
    assert [joined(batch) for batch in four.batches(3)] == expected
    two.close()
    four.close()


def test_a_seed_of_64_bits_is_resumed_and_a_larger_one_refused(fixed: Path) -> None:
    local = str(next(path.parent for path in sorted(fixed.rglob("index.json"))))
    seed = (1 << 64) - 1
    state = loader(local, shuffle_seed=seed).state_dict()
    again = loader(local, shuffle_seed=seed)
    again.load_state_dict(state)
    assert again.order.shuffle_seed == seed
    with pytest.raises(MosaicDataError, match=r"shuffle_seed = .* must be at most"):
        loader(local, shuffle_seed=seed + 1)
