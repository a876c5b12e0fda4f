"""On all GPUs of this machine, with NCCL: FSDP trains, saves, and goes on as if never stopped."""

from pathlib import Path

import pytest
from integration_support.client import Numbered, Outcome, stream, train_with_command
from integration_support.ledger import cut, global_batches

LOCAL_BATCH = 4
SAVED, STEPS = 4, 8


def train(world: int, folder: Path, numbered: Numbered, *more: str) -> Outcome:
    options = [
        f"--training.steps={STEPS}",
        f"--training.local_batch_size={LOCAL_BATCH}",
        "--mosaic_dataloader.num_workers=2",
        "--checkpoint.enable",
        f"--checkpoint.interval={SAVED}",
    ]
    folder.mkdir(exist_ok=True)
    return train_with_command(world, *options, *stream("a", numbered.local), *more, folder=folder)


def check_resume(world: int, folder: Path, numbered: Numbered, *more: str) -> None:
    """Train to the end; then from the saved step to the end again, in new processes."""
    whole = train(world, folder / "whole", numbered, *more)
    size = LOCAL_BATCH * world
    assert [ledger.dp for ledger in whole.ledgers] == [(rank, world) for rank in range(world)]
    assert global_batches(whole.ledgers) == cut(numbered.order, 0, size, STEPS)

    target = folder / "again" / "out" / "checkpoint"
    target.mkdir(parents=True)
    name = f"step-{SAVED}"
    (target / name).symlink_to(folder / "whole" / "out" / "checkpoint" / name)
    again = train(world, folder / "again", numbered, *more)
    for before, after in zip(whole.ledgers, again.ledgers, strict=True):
        assert len(after.digests) == STEPS - SAVED
        assert after.digests == before.digests[SAVED:]
    before, after = whole.ledger(0).of("trained"), again.ledger(0).of("trained")
    assert [line["step"] for line in after] == list(range(SAVED + 1, STEPS + 1))
    losses = [line["loss"] for line in before[SAVED:]]
    # Reductions of several GPUs need not add up in the same order.
    assert [line["loss"] for line in after] == pytest.approx(losses, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["disabled", "async", "async_with_pinned_mem"])
def test_resume_on_all_gpus(tmp_path: Path, numbered: Numbered, mode: str) -> None:
    import torch

    pinned = "--mosaic_dataloader.pin_memory"
    mode_option = f"--checkpoint.async_mode={mode}"
    check_resume(torch.cuda.device_count(), tmp_path, numbered, pinned, mode_option)
    log = (tmp_path / "whole" / "output.log").read_text()
    assert "CUDA" in log, "it trained on something else"


@pytest.mark.soak
def test_the_same_on_cpu(
    tmp_path: Path, numbered: Numbered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test itself is known to work where there is no GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_resume(2, tmp_path, numbered, "--checkpoint.async_mode=async")
