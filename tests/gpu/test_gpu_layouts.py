"""Each layout that this machine's GPUs allow goes on where one GPU stopped, and back again.

NCCL is tested with the same commands that a user types; what one GPU cannot do is skipped, with
the number that it takes.
"""

from pathlib import Path
from typing import Any

import pytest
from integration_support.client import Numbered, Outcome, stream, train_with_command
from integration_support.ledger import cut, global_batches

BATCH = 8
SAVED, STEPS = 3, 6
SHARD, TP = "data_parallel_shard", "tensor_parallel"
LAYOUTS: dict[str, dict[str, int]] = {
    "fsdp": {SHARD: 2},
    "ddp": {"data_parallel_replicate": 2},
    "tp": {TP: 2},
    "pp": {"pipeline_parallel": 2},
    "cp": {"context_parallel": 2},
    "hsdp": {"data_parallel_replicate": 2, SHARD: 2},
    "fsdp_tp": {SHARD: 2, TP: 2},
    "fsdp_cp": {SHARD: 2, "context_parallel": 2},
    "fsdp_tp_pp": {SHARD: 2, TP: 2, "pipeline_parallel": 2},
}
ON_CPU = ("fsdp", "tp", "pp", "hsdp")


def ranks_of(layout: dict[str, int]) -> int:
    product = 1
    for degree in layout.values():
        product *= degree
    return product


def train(
    folder: Path, numbered: Numbered, layout: dict[str, int], *more: str, start: Path | None = None
) -> Outcome:
    """Train to `STEPS`, from the beginning or from another run's checkpoint."""
    target = folder / "out" / "checkpoint"
    target.mkdir(parents=True)
    if start is not None:
        (target / start.name).symlink_to(start)
    replicas = layout.get(SHARD, 1) * layout.get("data_parallel_replicate", 1)
    options = [
        f"--training.steps={STEPS}",
        f"--training.local_batch_size={BATCH // replicas}",
        f"--training.global_batch_size={BATCH}",
        "--checkpoint.enable",
        f"--checkpoint.interval={SAVED}",
        *(f"--parallelism.{name}_degree={degree}" for name, degree in layout.items()),
    ]
    world = ranks_of(layout)
    return train_with_command(world, *options, *stream("a", numbered.local), *more, folder=folder)


def losses(outcome: Outcome) -> dict[int, float]:
    """By step, from whichever rank has them."""
    found: dict[int, float] = {}
    for ledger in outcome.ledgers:
        for line in ledger.of("trained"):
            if line["loss"] > 0:  # -1 on the other stages of a pipeline
                found[line["step"]] = line["loss"]
    return found


def check_both_ways(
    tmp_path: Path, numbered: Numbered, layout: dict[str, int], *more: str, rel: float
) -> None:
    """One rank, then the layout from its checkpoint; the layout, then one rank from its."""
    rest = cut(numbered.order, SAVED * BATCH, BATCH, STEPS - SAVED)
    for name, first, second in (("out", {}, layout), ("back", layout, {})):
        whole = train(tmp_path / f"{name}-whole", numbered, first, *more)
        assert global_batches(whole.ledgers) == cut(numbered.order, 0, BATCH, STEPS)
        start = whole.folder / "out" / "checkpoint" / f"step-{SAVED}"
        resumed = train(tmp_path / f"{name}-resumed", numbered, second, *more, start=start)
        assert global_batches(resumed.ledgers) == rest
        before, after = losses(whole), losses(resumed)
        assert sorted(after) == list(range(SAVED + 1, STEPS + 1))
        # Sums of several GPUs add up in another order.
        assert after == pytest.approx({step: before[step] for step in after}, rel=rel)


def cases() -> list[Any]:
    return [
        pytest.param(name, id=name, marks=pytest.mark.gpu(count=ranks_of(layout)))
        for name, layout in LAYOUTS.items()
    ]


@pytest.mark.parametrize("name", cases())
def test_elastic_resume(tmp_path: Path, numbered: Numbered, name: str) -> None:
    more, rel = ["--mosaic_dataloader.pin_memory"], 1e-3
    if "cp" in name:
        # Context parallel attention has no kernel for float32. On one GPU FSDP is not applied, and
        # autocast rounds elsewhere.
        more, rel = [*more, "--training.mixed_precision_param=bfloat16"], 3e-2
    check_both_ways(tmp_path, numbered, LAYOUTS[name], *more, rel=rel)
    assert "CUDA" in (tmp_path / "out-whole" / "output.log").read_text(), "on something else"


@pytest.mark.soak
@pytest.mark.parametrize("name", ON_CPU)
def test_the_same_on_cpu(
    tmp_path: Path, numbered: Numbered, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test itself is known to work where there is no GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_both_ways(tmp_path, numbered, LAYOUTS[name], rel=1e-3)
