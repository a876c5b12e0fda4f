"""The promises hold on every path from a shard to a batch: the same samples, exactly, on all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataloader_helpers import SEQ_LEN, Ranks, joined, write_rows
from streaming import CSVWriter, JSONWriter, MDSWriter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mosaic_dataloader.order import sequence as sequence_module
from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.sequence import EpochSequence

ROWS = 61
# Ranks, rows per rank, batches: through the epoch's end in the second and again in the third.
LEGS = ((2, 3, 7), (3, 2, 8), (1, 5, 9))
SMALL = {"size_limit": 1200}


def uneven(out: Path) -> str:
    """Rows of different lengths, which lie in no rectangle of their map."""
    with MDSWriter(out=str(out), columns={"tokens": "ndarray:int32"}, **SMALL) as writer:
        for number in range(ROWS):
            length = SEQ_LEN + 1 + number % 3
            writer.write({"tokens": np.full(length, number, np.int32)})
    return str(out)


def text(writer: Any) -> Callable[[Path], str]:
    def write(out: Path) -> str:
        with writer(out=str(out), columns={"text": "str"}, **SMALL) as to:
            for number in range(ROWS):
                to.write({"text": " ".join([f"w{number}"] * (SEQ_LEN + 1))})
        return str(out)

    return write


STORED: dict[str, Callable[[Path], str]] = {
    # A rectangle in a memory map: the hot path.
    "rows": lambda out: write_rows(out, range(ROWS), **SMALL),
    "uneven rows": uneven,
    "compressed": lambda out: write_rows(out, range(ROWS), compression="zstd", **SMALL),
    "text": text(MDSWriter),
    # mosaicml-streaming's own readers.
    "jsonl": text(JSONWriter),
    "csv": text(CSVWriter),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("stored")
    return {kind: write(folder / kind.replace(" ", "-")) for kind, write in STORED.items()}


def tokenizer() -> Tokenizer:
    made = Tokenizer(WordLevel({f"w{number}": number for number in range(ROWS)}, unk_token="w0"))
    made.pre_tokenizer = Whitespace()
    return made


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize(
    ("algo", "workers"),
    [
        ("py1e", 0),
        ("feistel", 0),
        ("py1e", 1),
        # A worker reads the order that it is given, whichever that is.
        pytest.param("feistel", 1, marks=pytest.mark.soak),
    ],
)
def test_all_read_the_order_itself(
    stored: dict[str, str], tmp_path: Path, kind: str, algo: str, workers: int
) -> None:
    go_through({"local": stored[kind]}, tmp_path, algo, num_workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["rows", "compressed", "jsonl"])
def test_fetched_shards_too(
    stored: dict[str, str], tmp_path: Path, kind: str, workers: int
) -> None:
    stream = {"remote": stored[kind], "local": str(tmp_path / "cache")}
    go_through(stream, tmp_path, "py1e", num_workers=workers)


def test_a_stored_order_too(
    stored: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_module, "_SHORT", 10)
    go_through({"local": stored["rows"]}, tmp_path, "py1e", num_workers=1)
    assert list((tmp_path / "caches" / "orders").glob("*/*/ids.npy"))


def go_through(stream: dict[str, str], tmp_path: Path, algo: str, **options: Any) -> None:
    """Each global batch, through changes of layout, against the order as a pure function."""
    order = {"shuffle_algo": algo, "shuffle_block_size": 30, "num_canonical_nodes": 2}
    state: dict[str, str] | None = None
    expected: EpochSequence | None = None
    position = 0
    for world_size, batch_size, batches in LEGS:
        ranks = Ranks(
            {"data": stream},
            world_size,
            batch_size=batch_size,
            tokenizer=tokenizer(),
            cache_dir=str(tmp_path / "caches"),
            **order,
            **options,
        )
        if expected is None:
            resolved = OrderOptions(shuffle=True, **order).resolve(
                num_nodes=1, global_batch=1, local_batch=1
            )
            expected = EpochSequence(ranks.loaders[0].dataset.mixture, resolved)
        if state:
            ranks.load(state)
        for batch in ranks.batches(batches):
            size = world_size * batch_size
            # Rows are numbered as they were written, and so are samples.
            wanted = expected.rows(position, position + size)[0].tolist()
            assert joined(batch) == sorted(wanted)
            if world_size == 1:
                # Nor do they change places.
                assert batch == [wanted]
            position += size
        state = ranks.state
        ranks.close()
    assert position > 2 * ROWS
