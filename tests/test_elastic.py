"""Through TorchTitan's CheckpointManager: the position goes on under any other layout."""

import json
from dataclasses import dataclass

import pytest
from integration_support.client import SEQ_LEN, RankServer, command_line, stream
from integration_support.ledger import cut, global_batches

SIZES = {"a": 151, "b": 67}
SHARE = {"a": 0.6, "b": 0.4}
NODES = 2
BATCH = 12


@dataclass(frozen=True)
class Leg:
    """A piece of the run: new processes that load, save after each batch, and are then ended.

    Attributes:
        world: Ranks.
        local: Rows of a rank's batch; 0: one batch that ends with the epoch.
        batches: How many are taken and saved.
        back: How many saves before the last one it starts from.
        beyond: Batches taken after the last save; the next leg sees them again.
    """

    world: int
    local: int
    batches: int
    workers: int = 0
    prefetch: int | None = None
    back: int = 0
    beyond: int = 2


# While BATCH stays, each global batch is to be the same set of rows, whoever reads it.
LEGS = [
    Leg(1, BATCH, 3),
    Leg(2, BATCH // 2, 5, workers=2, prefetch=3),
    Leg(4, BATCH // 4, 4, workers=1, prefetch=1, back=1),
    Leg(3, BATCH // 3, 4, workers=2, prefetch=5),
    Leg(1, 0, 1, beyond=0),
    Leg(2, 5, 3, workers=1, prefetch=4),
    Leg(3, 7, 12, back=2),
    Leg(1, 9, 2),
]


@pytest.fixture(scope="module")
def streams(ranks: RankServer) -> list[str]:
    """Two weighted streams, whose epoch list is resampled; as options."""
    options: list[str] = []
    for first, (name, size) in zip((0, 1000), SIZES.items(), strict=True):
        local = str(ranks.folder / f"elastic-{name}")
        rows = [[first + number] * (SEQ_LEN + 1) for number in range(size)]
        ranks.run("write_rows", out=local, rows=rows, size_limit=2000).succeeded()
        options += stream(name, local, proportion=SHARE[name])
    return options


@pytest.fixture(scope="module")
def reference(ranks: RankServer, streams: list[str]) -> tuple[list[int], int]:
    """The order of an uninterrupted run of one rank, and the length of its epochs."""
    locations = {
        name: {"local": str(ranks.folder / f"elastic-{name}"), "proportion": SHARE[name]}
        for name in SIZES
    }
    options = {"shuffle": True, "num_canonical_nodes": NODES}
    run = ranks.run("order", streams=locations, count=700, seq_len=SEQ_LEN, **options)
    (line,) = run.succeeded().ledger(0).of("order")
    return line["rows"], line["epoch"]


# `test_resume_trainer.py` saves without a thread.
@pytest.mark.parametrize("mode", [pytest.param("disabled", marks=pytest.mark.soak), "async"])
def test_a_run_goes_on_under_any_layout(
    ranks: RankServer, streams: list[str], reference: tuple[list[int], int], mode: str
) -> None:
    order, epoch = reference
    out = ranks.new_folder(f"elastic-{mode}") / "out"
    positions = {0: 0}  # by step
    epoch_ends = 0
    for number, leg in enumerate(LEGS):
        step = max(positions) - leg.back
        start = positions[step]
        local = leg.local or (epoch - start) // leg.world
        batch = local * leg.world
        options = [f"--training.local_batch_size={local}", f"--job.dump_folder={out}"]
        options += [f"--mosaic_dataloader.num_workers={leg.workers}"]
        if leg.prefetch:
            options += [f"--mosaic_dataloader.prefetch_factor={leg.prefetch}"]
        options += ["--checkpoint.enable", "--checkpoint.interval=1"]
        options += [f"--checkpoint.async_mode={mode}", *streams]
        folder = ranks.new_folder(f"leg{number}")
        run = ranks.run(
            "leg",
            leg.world,
            folder=folder,
            # The first start's nodes decide how many canonical nodes there are, and no later one's.
            env={"GROUP_WORLD_SIZE": str(NODES + number)},
            argv=command_line(folder, *options),
            batches=leg.batches,
            beyond=leg.beyond,
            load_step=step if number else -1,
        ).succeeded()
        for ledger in run.ledgers:
            (begun,) = ledger.of("start")
            assert (begun["loaded"], begun["step"]) == (number > 0, step)
        count = leg.batches + leg.beyond
        assert global_batches(run.ledgers) == cut(order, start, batch, count), f"leg {number}"
        # From before the first batch on, every rank has the same state, to the letter.
        states = [[line["mosaic"] for line in ledger.of("state")] for ledger in run.ledgers]
        assert len(states[0]) > count
        assert all(other == states[0] for other in states), f"leg {number}"
        seen = [json.loads(state)["samples_seen"] for state in states[0]]
        assert seen[-count:] == [start + (k + 1) * batch for k in range(count)]
        positions = {s: p for s, p in positions.items() if s <= step}
        positions |= {step + k + 1: start + (k + 1) * batch for k in range(leg.batches)}
        epoch_ends += positions[max(positions)] % epoch == 0
    assert epoch_ends == 1, "one save is exactly at an epoch's end"
    assert positions[max(positions)] > 2 * epoch, "the run has more than two epochs"
