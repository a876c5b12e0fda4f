"""Whatever the layout: a replica's ranks get the same bytes, replicas share out the batch."""

from itertools import combinations

import pytest
from integration_support.client import Numbered, RankServer, stream
from integration_support.ledger import READ_ONLY, RankLedger, cut, global_batches, replicas

LOCAL_BATCH = 4
STEPS = 3
DEGREE = {
    "replicate": "data_parallel_replicate",
    "shard": "data_parallel_shard",
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
    "cp": "context_parallel",
}
# Ranks, degrees, the data-parallel rank of each rank, and micro-batches in a step.
TRAINED = {
    "single": (1, {}, [0], 2),
    "pp": (2, {"pp": 2}, [0, 0], 1),
}
# Here the Trainer only builds its loader: context parallel attention has no CPU kernel, and the
# others train in `test_same_gradients.py`, FSDP in `test_resume_trainer.py` with its batches.
READ = {
    "fsdp": (2, {"shard": 2}, [0, 1], 2),
    "tp": (2, {"tp": 2}, [0, 0], 1),
    "hsdp": (4, {"replicate": 2, "shard": 2}, [0, 1, 2, 3], 2),
    "fsdp_tp": (4, {"shard": 2, "tp": 2}, [0, 0, 1, 1], 2),
    "fsdp_pp": (4, {"shard": 2, "pp": 2}, [0, 1, 0, 1], 2),
    "cp": (2, {"cp": 2}, [0, 0], 1),
    "hsdp_cp_tp": (
        16,
        {"replicate": 2, "shard": 2, "cp": 2, "tp": 2},
        [rank // 4 for rank in range(16)],
        1,
    ),
    "pp_fsdp_cp": (8, {"pp": 2, "shard": 2, "cp": 2}, [0, 0, 1, 1, 0, 0, 1, 1], 1),
}


def check(ledgers: list[RankLedger], expected: list[int], order: list[int], count: int) -> None:
    """Each rank has its data-parallel rank, and batches that the order and the layout ask for."""
    dp_world_size = len(set(expected))
    assert [ledger.dp for ledger in ledgers] == [(rank, dp_world_size) for rank in expected]
    groups = replicas(ledgers)
    for group in groups.values():
        for other in group:
            assert len(other.digests) == count
            assert other.digests == group[0].digests
    for one, other in combinations(groups, 2):
        for mine, theirs in zip(groups[one][0].rows, groups[other][0].rows, strict=True):
            assert not set(mine) & set(theirs)
    size = LOCAL_BATCH * dp_world_size
    assert global_batches(ledgers) == cut(order, 0, size, count)


@pytest.mark.parametrize("name", TRAINED)
def test_training(ranks: RankServer, numbered: Numbered, name: str) -> None:
    world, degrees, expected, accumulation = TRAINED[name]
    batch = LOCAL_BATCH * len(set(expected)) * accumulation
    options = [f"--training.global_batch_size={batch}", f"--training.steps={STEPS}"]
    options += [f"--parallelism.{DEGREE[key]}_degree={value}" for key, value in degrees.items()]
    run = ranks.train(world, *options, *stream("a", numbered.local)).succeeded()
    check(run.ledgers, expected, numbered.order, STEPS * accumulation)
    # It has trained on them: the last pipeline stage, or every rank, has a loss for every step.
    trained = run.ledger(world - 1).of("trained")
    assert [line["step"] for line in trained] == list(range(1, STEPS + 1))
    assert all(0 < line["loss"] < 20 for line in trained)


# Sixteen processes; the others have each of its degrees.
SOAKED = ("hsdp_cp_tp",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.soak if name in SOAKED else ()) for name in READ],
)
def test_assignment_without_a_model(ranks: RankServer, numbered: Numbered, name: str) -> None:
    world, degrees, expected, _ = READ[name]
    options = [f"--parallelism.{DEGREE[key]}_degree={value}" for key, value in degrees.items()]
    run = ranks.train(world, *options, *stream("a", numbered.local), env={READ_ONLY: "6"})
    check(run.succeeded().ledgers, expected, numbered.order, 6)
