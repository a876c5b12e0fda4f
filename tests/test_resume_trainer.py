"""Through the real Trainer: what follows a checkpoint follows it again, in new processes."""

import json

import pytest
from integration_support.client import Numbered, Outcome, RankServer, stream
from integration_support.ledger import cut, global_batches

SAVED, NEXT = 3, 4
STEPS = SAVED + NEXT
BATCH = 12


def options(numbered: Numbered, local_batch: int, workers: int) -> list[str]:
    batches = [f"--training.local_batch_size={local_batch}", f"--training.steps={STEPS}"]
    workers_option = f"--mosaic_dataloader.num_workers={workers}"
    # Every step is saved that one can be resumed from, and the last one.
    checkpoint = ["--checkpoint.enable", f"--checkpoint.interval={SAVED}"]
    return [*batches, workers_option, *checkpoint, *stream("a", numbered.local)]


@pytest.fixture(scope="module")
def whole(ranks: RankServer, numbered: Numbered) -> Outcome:
    """An uninterrupted run of two ranks, each with two workers."""
    run = ranks.train(2, *options(numbered, BATCH // 2, workers=2)).succeeded()
    assert global_batches(run.ledgers) == cut(numbered.order, 0, BATCH, STEPS)
    return run


def resumed(ranks: RankServer, whole: Outcome, world: int, *arguments: str) -> Outcome:
    """Start anew from the step that was saved, with a copy of its checkpoint alone."""
    folder = ranks.new_folder("resumed")
    source = whole.folder / "out" / "checkpoint" / f"step-{SAVED}"
    target = folder / "out" / "checkpoint"
    target.mkdir(parents=True)
    (target / source.name).symlink_to(source)
    return ranks.train(world, *arguments, folder=folder, loads_weights=True).succeeded()


def losses(run: Outcome) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in run.ledger(0).of("trained")}


def test_the_next_batches_are_bit_identical(
    ranks: RankServer, numbered: Numbered, whole: Outcome
) -> None:
    again = resumed(ranks, whole, 2, *options(numbered, BATCH // 2, workers=2))
    for before, after in zip(whole.ledgers, again.ledgers, strict=True):
        assert len(after.digests) == NEXT
        assert after.digests == before.digests[SAVED:]
        (loaded,) = after.of("loaded")
        assert json.loads(loaded["mosaic"])["samples_seen"] == SAVED * BATCH
    assert losses(again) == {s: loss for s, loss in losses(whole).items() if s > SAVED}


@pytest.mark.parametrize("world", [1, 3, pytest.param(4, marks=pytest.mark.soak)])
def test_another_number_of_ranks_goes_on(
    ranks: RankServer, numbered: Numbered, whole: Outcome, world: int
) -> None:
    """With its sharded model and optimizer: the same batches, and so the same losses."""
    again = resumed(ranks, whole, world, *options(numbered, BATCH // world, workers=world // 3))
    assert global_batches(again.ledgers) == cut(numbered.order, SAVED * BATCH, BATCH, NEXT)
    expected = {s: loss for s, loss in losses(whole).items() if s > SAVED}
    assert losses(again) == pytest.approx(expected, rel=1e-3)


def test_a_checkpoint_without_the_optimizer_is_refused(
    ranks: RankServer, numbered: Numbered
) -> None:
    """TorchTitan's own default for the last step; the ranks say so before they load it."""
    folder = ranks.new_folder("model_only")
    some = [*options(numbered, BATCH, 0), "--checkpoint.last_save_model_only"]
    ranks.train(1, *some, "--training.steps=2", folder=folder).succeeded()
    again = ranks.train(1, *some, folder=folder, launched_by_us=False)
    assert again.codes == [2]
    lines = [line for line in again.log(0).splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, again.log(0)
    assert "Traceback" not in again.log(0)
    assert "step-2 holds the model only" in lines[0]
    assert "initial_load_path" in lines[0]
