"""Validation over a whole set, through the app: one number, whatever the layout."""

import random

import pytest
from integration_support.client import SEQ_LEN, Numbered, Outcome, RankServer, stream
from integration_support.ledger import VOCABULARY, cut, global_batches

# With 12 rows in a global batch, the last one has a single row: two of three ranks get none.
ROWS = 37
BATCH = 12
STEPS = 4
LAYOUTS = {
    "one": (1, 12, []),
    "two": (2, 6, ["--mosaic_validation_dataloader.num_workers=1"]),
    "three": (3, 4, []),
    "pipeline": (
        2,
        12,
        [
            "--parallelism.pipeline_parallel_degree=2",
            "--parallelism.pipeline_parallel_microbatch_size=4",
        ],
    ),
}


def validation_rows() -> list[list[int]]:
    """Rows of other tokens and of unequally many targets; some exactly as long as a row is."""
    rng = random.Random(0)
    lengths = [SEQ_LEN, SEQ_LEN + 1, SEQ_LEN + 9, 2]
    lengths += [rng.randint(2, SEQ_LEN + 9) for _ in range(ROWS - len(lengths))]
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


@pytest.fixture(scope="module")
def seed_checkpoint(ranks: RankServer, numbered: Numbered) -> str:
    """The model that all layouts begin with."""
    options = ["--checkpoint.enable", "--checkpoint.create_seed_checkpoint"]
    run = ranks.train(1, *options, *stream("a", numbered.local)).succeeded()
    return str(run.folder / "out" / "checkpoint" / "step-0")


def train(
    ranks: RankServer, numbered: Numbered, seed_checkpoint: str, name: str, *more: str
) -> Outcome:
    world, local, layout = LAYOUTS[name]
    options = [
        f"--training.steps={STEPS}",
        f"--training.local_batch_size={local}",
        "--checkpoint.enable",
        f"--checkpoint.initial_load_path={seed_checkpoint}",
        # The losses are to be the seed's own.
        "--optimizer.lr=1e-7",
    ]
    layout = [option for option in layout if more or "validation" not in option]
    run = ranks.train(world, *options, *layout, *stream("a", numbered.local), *more)
    return run.succeeded()


@pytest.fixture(scope="module")
def validated(
    ranks: RankServer, numbered: Numbered, seed_checkpoint: str
) -> tuple[dict[str, Outcome], list[list[int]]]:
    """A run of each layout that validates, and the rows that it validates on."""
    rows, local = validation_rows(), str(ranks.folder / "validation")
    ranks.run("write_rows", out=local, rows=rows, size_limit=1000).succeeded()
    section = [
        "--validation.enable",
        "--validation.steps=-1",
        "--validation.freq=2",
        f"--validation.seq_len={SEQ_LEN}",
        f"--mosaic_validation_dataloader.dataset.streams.v.local={local}",
    ]
    runs = {}
    for name, (_, local_batch, _) in LAYOUTS.items():
        batch = f"--validation.local_batch_size={local_batch}"
        runs[name] = train(ranks, numbered, seed_checkpoint, name, *section, batch)
    return runs, rows


def test_the_loss_is_the_mean_over_all_targets(
    ranks: RankServer,
    seed_checkpoint: str,
    validated: tuple[dict[str, Outcome], list[list[int]]],
) -> None:
    runs, rows = validated
    plain = ranks.run("mean_loss", checkpoint=seed_checkpoint, rows=rows, seq_len=SEQ_LEN)
    (expected,) = plain.succeeded().ledger(0).of("mean_loss")
    for name, run in runs.items():
        for ledger in run.ledgers:
            found = ledger.of("validated")
            assert [line["step"] for line in found] == [1, 2, 4], name
            for line in found:
                assert line["loss"] == pytest.approx(expected["loss"], rel=1e-5), name
                assert line["validation_metrics/n_targets"] == expected["targets"]
                assert line["validation_metrics/n_batches"] == 4


def test_training_does_not_notice(
    ranks: RankServer,
    numbered: Numbered,
    seed_checkpoint: str,
    validated: tuple[dict[str, Outcome], list[list[int]]],
) -> None:
    runs, _ = validated
    for run in runs.values():
        assert global_batches(run.ledgers) == cut(numbered.order, 0, BATCH, STEPS)
    for name in ("two", "pipeline"):
        without = train(ranks, numbered, seed_checkpoint, name)
        for mine, theirs in zip(without.ledgers, runs[name].ledgers, strict=True):
            assert not mine.of("validated")
            assert mine.digests == theirs.digests
            assert mine.of("trained") == theirs.of("trained")
            # What the checkpoint of the last step holds.
            assert mine.of("state")[-1] == theirs.of("state")[-1]
