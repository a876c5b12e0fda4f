"""The same losses and gradients under every layout, step by step, from the same weights.

Adam forgives a gradient that is wrong by a constant factor; clipping does not, and the norms say
so. Rows hold unequally many targets, half of them none, and the batch of one step has none at all.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from integration_support.client import SEQ_LEN, Outcome, RankServer, stream
from integration_support.ledger import VOCABULARY

STEPS, SOAK_STEPS, BATCH = 3, 12, 8
EMPTY_STEP = 2
REPLICATE, SHARD = "data_parallel_replicate", "data_parallel_shard"
TP, PP = "tensor_parallel", "pipeline_parallel"


@dataclass(frozen=True)
class Layout:
    """Degrees, and how many rows a data-parallel rank has in each of its micro-batches."""

    rows: int
    degrees: dict[str, int] = field(default_factory=dict)

    @property
    def world(self) -> int:
        return math.prod(self.degrees.values())


ONE = Layout(8)
LAYOUTS = {
    "accumulated": Layout(2),
    "ddp2_accumulated": Layout(1, {REPLICATE: 2}),
    "ddp4": Layout(2, {REPLICATE: 4}),
    "fsdp2_accumulated": Layout(2, {SHARD: 2}),
    "fsdp4": Layout(2, {SHARD: 4}),
    "hsdp": Layout(2, {REPLICATE: 2, SHARD: 2}),
    "tp2": Layout(8, {TP: 2}),
    "pp2": Layout(8, {PP: 2}),
    "pp2_accumulated": Layout(2, {PP: 2}),
    "fsdp_tp": Layout(4, {SHARD: 2, TP: 2}),
    "fsdp_pp": Layout(2, {SHARD: 2, PP: 2}),
}
#: What says something of its own about a model, and each kind of parallelism with one or another.
MODELS = {
    "tiny": ["accumulated", "fsdp_pp"],
    # Embedding and output are one weight.
    "small_tied": ["hsdp", "fsdp_tp"],
    # Experts have a bias each, which follows how many tokens they were given.
    "small_experts": ["ddp2_accumulated", "pp2_accumulated"],
    "small_own_loss": ["pp2_accumulated"],
    "small_averaging": ["fsdp2_accumulated"],
}


@pytest.fixture(scope="module")
def rows(ranks: RankServer) -> str:
    """Rows in the order of the run."""
    draw, local = random.Random(13), str(ranks.folder / "uneven")
    count = SOAK_STEPS * BATCH
    empty = [draw.random() < 0.5 or n // BATCH + 1 == EMPTY_STEP for n in range(count)]
    # Of a row of one token the next is not known: it holds no target.
    lengths = [1 if each else draw.choice([SEQ_LEN + 1, 9]) for each in empty]
    written = [[draw.randrange(VOCABULARY) for _ in range(length)] for length in lengths]
    ranks.run("write_rows", out=local, rows=written).succeeded()
    # Two data-parallel ranks halve each batch, which at times leaves one of them without targets.
    halves = [all(empty[n : n + BATCH // 2]) for n in range(0, len(empty), BATCH // 2)]
    assert any(a != b for a, b in zip(halves[::2], halves[1::2], strict=True))
    return local


def train(
    ranks: RankServer, rows: str, model: str, steps: int, layout: Layout, *more: str
) -> Outcome:
    options = [f"--training.local_batch_size={layout.rows}", f"--training.steps={steps}"]
    options += [f"--parallelism.{name}_degree={value}" for name, value in layout.degrees.items()]
    if model != "tiny":
        options += ["--experimental.custom_import", "integration_support.small_models"]
    return ranks.train(
        layout.world,
        *(*options, "--model.name", model, f"--training.global_batch_size={BATCH}"),
        # Below the norms that come up: each step is clipped, by a factor of its own.
        *("--training.max_norm", "0.1", "--optimizer.lr", "3e-3"),
        *("--mosaic_dataloader.dataset.no-shuffle", "--checkpoint.enable", *more),
        *stream("a", rows),
        record_batches=False,
        loads_weights=any("initial_load_path" in option for option in more),
    ).succeeded()


@pytest.mark.parametrize(
    ("model", "layouts", "steps"),
    [
        *(pytest.param(model, layouts, STEPS, id=model) for model, layouts in MODELS.items()),
        pytest.param("tiny", list(LAYOUTS), SOAK_STEPS, id="all", marks=pytest.mark.soak),
    ],
)
def test_every_layout_trains_alike(
    ranks: RankServer, rows: str, model: str, layouts: Sequence[str], steps: int
) -> None:
    made = train(ranks, rows, model, steps, ONE, "--checkpoint.create_seed_checkpoint")
    seed = ["--checkpoint.initial_load_path", str(made.folder / "out" / "checkpoint" / "step-0")]
    (expected,) = (
        run.of("trained") for run in train(ranks, rows, model, steps, ONE, *seed).ledgers
    )
    assert len(expected) == steps
    without = expected[EMPTY_STEP - 1]
    assert (without["loss"], without["norm"]) == (0, 0)
    assert all(line["norm"] > 0.1 for line in expected if line is not without)

    differing = {}
    for name in layouts:
        run = train(ranks, rows, model, steps, LAYOUTS[name], *seed)
        # Of a pipeline's ranks those of the last stage have the loss.
        seen = run.ledgers[-1].of("trained")
        table = [[line["loss"], line["norm"]] for line in seen]
        wanted = [[line["loss"], line["norm"]] for line in expected]
        if [pytest.approx(each, rel=1e-3) for each in wanted] != table:
            differing[name] = list(zip(table, wanted, strict=True))
        # The mean of the rank that has the largest, of those that have targets.
        assert all(line["max"] >= line["loss"] * (1 - 1e-5) for line in seen), name
    assert not differing
