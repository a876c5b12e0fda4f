"""What is compressed takes no more memory or disk than the index says, in every form there is."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from dataloader_helpers import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming.base.compression import compress, get_compressions

from mosaic_dataloader.storage.unpack import ALGORITHMS, unpack
from mosaic_dataloader.util.store_errors import CorruptShardError

# Bytes, all of them zero: packed they are some hundred to some million.
BOMB = 48 << 20


@settings(max_examples=settings().max_examples // 4)
@given(
    st.sampled_from(sorted(get_compressions())),
    st.binary(max_size=2000),
    st.integers(0, 2000),
    st.integers(1, 400),
)
def test_what_mosaicml_streaming_packs_is_unpacked_if_it_is_as_long_as_stated(
    tmp_path_factory: pytest.TempPathFactory, compression: str, data: bytes, cut: int, times: int
) -> None:
    folder = tmp_path_factory.mktemp("unpack")
    packed, unpacked = str(folder / "packed"), folder / "unpacked"
    data = data * times
    whole = compress(compression, data)
    Path(packed).write_bytes(whole)
    unpack(packed, str(unpacked), compression, len(data))
    assert unpacked.read_bytes() == data
    unpacked.unlink()
    for size in {len(data) - 1, len(data) // 2, len(data) + 1} - {-1, len(data)}:
        with pytest.raises(CorruptShardError):
            unpack(packed, str(unpacked), compression, size)
        assert not unpacked.exists()
    Path(packed).write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(CorruptShardError):
        unpack(packed, str(unpacked), compression, len(data) or 1)


def test_every_compression_is_known() -> None:
    assert {name.partition(":")[0] for name in get_compressions()} == set(ALGORITHMS)


def test_a_bomb_takes_what_the_index_says(tmp_path: Path) -> None:
    cache, expected = tmp_path / "cache", []
    # Those that stay larger come last: what was the most memory so far counts.
    for compression in ("br:1", "bz2:1", "zstd:1", "gz:1", "snappy"):
        store = tmp_path / compression
        write_rows(store, range(40), size_limit=1000, compression=compression)
        index = json.loads((store / "index.json").read_text())
        info = index["shards"][1]["zip_data"]
        bomb = compress(compression, bytes(BOMB))
        (store / info["basename"]).write_bytes(bomb)
        info["bytes"] = len(bomb)
        (store / "index.json").write_text(json.dumps(index))
        expected.append((str(store), index["shards"][1]["raw_data"]["bytes"], len(bomb)))
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("bomb.py")), str(cache)]
        + [store for store, _, _ in expected],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    lines = ended.stdout.splitlines()
    assert len(lines) == 2 * len(expected)
    for (store, size, packed), message, kilobytes in zip(
        expected, lines[::2], lines[1::2], strict=True
    ):
        assert f'stream "web", shard shard.00001.mds from {store}' in message
        assert f"{size} bytes" in message
        # Little more than what was fetched, whose size the index states, too.
        assert int(kilobytes) << 10 < 3 * packed + (40 << 20) < BOMB
    assert not list(cache.rglob("shard.00001.mds"))
    assert sum(p.stat().st_size for p in cache.rglob("*") if p.is_file()) < 1 << 20


def test_sizes_that_are_not_filled_take_no_memory(tmp_path: Path) -> None:
    """A few bytes that are said to be four gigabytes."""
    packed = tmp_path / "packed"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for compression in ALGORITHMS:
        packed.write_bytes(compress(compression, bytes(100)))
        with pytest.raises(CorruptShardError, match="100 bytes where the index says"):
            unpack(str(packed), str(tmp_path / "unpacked"), compression, (1 << 32) - 1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200 << 10
