"""Packed rows through TorchTitan's CheckpointManager: the same under any number of ranks."""

import json
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from integration_support.client import SEQ_LEN, RankServer, command_line, stream

LANES, BATCH = 24, 12
# One token, shorter than a row, as long as one, and as long as several.
LENGTHS = [1, 7, SEQ_LEN, SEQ_LEN + 1, 40, 150]


@dataclass(frozen=True)
class Leg:
    """A piece of the run: new processes that load, save after each batch, and are then ended.

    Attributes:
        world: Ranks.
        batches: How many are taken and saved.
        workers: Worker processes of each rank.
        back: How many saves before the last one it starts from.
        killed: Whether all ranks end by SIGKILL.
    """

    world: int
    batches: int
    workers: int = 0
    back: int = 0
    killed: bool = False


LEGS = [
    Leg(1, 3, workers=1),
    Leg(2, 3, killed=True),
    Leg(4, 2, back=1),
    Leg(3, 2, killed=True),
    Leg(1, 2, workers=2),
]
# Taken after the last save; the next leg sees them again.
BEYOND = 2


def test_packed_rows_go_on_under_any_number_of_ranks(ranks: RankServer) -> None:
    rng = np.random.default_rng(3)
    local = str(ranks.folder / "documents")
    documents = [rng.integers(0, 2000, rng.choice(LENGTHS)).tolist() for _ in range(170)]
    ranks.run("write_rows", out=local, rows=documents, size_limit=3000).succeeded()
    total = BATCH * (sum(leg.batches for leg in LEGS) + BEYOND)
    run = ranks.run(
        "packed_order",
        streams={"a": {"local": local}},
        count=total,
        seq_len=SEQ_LEN,
        shuffle=True,
        packing_lanes=LANES,
        num_canonical_nodes=2,
    )
    (line,) = run.succeeded().ledger(0).of("packed")
    expected = line["rows"]
    # Each lane is one sequence: its rows overlap by one token, and together are whole documents.
    for lane in range(LANES):
        rows = expected[lane::LANES]
        assert all(a[-1] == b[0] for a, b in pairwise(rows))
    assert {tuple(row[:8]) for row in expected[:LANES]} & {
        tuple(document[:8]) for document in documents if len(document) > SEQ_LEN
    }

    out = ranks.new_folder("packed") / "out"
    step = 0
    for number, leg in enumerate(LEGS):
        start = step - leg.back
        folder = ranks.new_folder(f"packed-leg{number}")
        options = [f"--training.local_batch_size={BATCH // leg.world}"]
        options += [f"--job.dump_folder={out}", f"--mosaic_dataloader.num_workers={leg.workers}"]
        options += ["--checkpoint.enable", "--checkpoint.interval=1"]
        options += ["--checkpoint.async_mode=async", *stream("a", local)]
        options += ["--mosaic_dataloader.dataset.packing"]
        options += [f"--mosaic_dataloader.dataset.packing_lanes={LANES}"]
        run = ranks.run(
            "leg",
            leg.world,
            folder=folder,
            # The first start's nodes decide how many canonical nodes there are.
            env={"GROUP_WORLD_SIZE": str(2 + number)},
            argv=command_line(folder, *options),
            batches=leg.batches,
            beyond=BEYOND,
            load_step=start if number else -1,
            packed=True,
            killed=leg.killed,
        )
        if not leg.killed:
            run.succeeded()
        taken = [ledger.of("packed") for ledger in run.ledgers]
        for index, parts in enumerate(zip(*taken, strict=True)):
            begin = (start + index) * BATCH
            rows = sorted(row for part in parts for row in part["rows"])
            assert rows == sorted(expected[begin : begin + BATCH]), f"leg {number}, batch {index}"
            assert len({part["state"]["mosaic"] for part in parts}) == 1
            assert json.loads(parts[0]["state"]["mosaic"])["samples_seen"] == begin + BATCH
            # Together the ranks save every lane, each of them once.
            lanes = [key for part in parts for key in part["state"] if key != "mosaic"]
            assert sorted(lanes) == [f"lane_{lane:04d}" for lane in range(LANES)]
        assert len(taken[0]) == leg.batches + BEYOND
        step = start + leg.batches
