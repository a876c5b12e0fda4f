"""Validation over a whole set, through the app: one number, whatever the layout."""

import itertools
import random

import pytest
from integration_support.client import SEQ_LEN, Numbered, Outcome, RankServer, stream
from integration_support.ledger import VOCABULARY, cut, global_batches

# Of two streams. With 12 rows in a global batch, the last one of the first stream has a single row:
# two of three ranks get none.
ROWS = {"web": 25, "code": 11}
BATCH = 12
STEPS = 3
LANES = 6
# Ranks, rows of each in a micro-batch of training and of validation, and further options.
LAYOUTS = {
    "one": (1, 12, 12, []),
    "two": (
        2,
        3,
        6,
        [
            f"--training.global_batch_size={BATCH}",
            "--mosaic_validation_dataloader.num_workers=1",
        ],
    ),
    "three": (3, 4, 4, []),
    "pipeline": (
        2,
        12,
        12,
        [
            "--parallelism.pipeline_parallel_degree=2",
            "--parallelism.pipeline_parallel_microbatch_size=4",
        ],
    ),
}


def validation_rows(count: int) -> list[list[int]]:
    """Rows of other tokens and of unequally many targets; some exactly as long as a row is."""
    rng = random.Random(count)
    lengths = [SEQ_LEN, SEQ_LEN + 1, SEQ_LEN + 9, 2]
    lengths += [rng.randint(2, SEQ_LEN + 9) for _ in range(count - len(lengths))]
    return [[rng.randrange(VOCABULARY) for _ in range(length)] for length in lengths]


def packed_rows(documents: list[list[int]], lanes: int) -> list[list[int]]:
    """Documents joined in lanes; a row begins with the last token of the one before."""
    joined = [list(itertools.chain(*documents[lane::lanes])) for lane in range(lanes)]
    return [
        tokens[start : start + SEQ_LEN + 1]
        for tokens in joined
        for start in range(0, len(tokens) - 1, SEQ_LEN)
    ]


@pytest.fixture(scope="module")
def seed_checkpoint(ranks: RankServer, numbered: Numbered) -> str:
    """The model that all layouts begin with."""
    options = ["--checkpoint.enable", "--checkpoint.create_seed_checkpoint"]
    run = ranks.train(1, *options, *stream("a", numbered.local)).succeeded()
    return str(run.folder / "out" / "checkpoint" / "step-0")


def train(
    ranks: RankServer, numbered: Numbered, seed_checkpoint: str, name: str, *more: str
) -> Outcome:
    world, local, _, layout = LAYOUTS[name]
    options = [
        f"--training.steps={STEPS}",
        f"--training.local_batch_size={local}",
        "--checkpoint.enable",
        f"--checkpoint.initial_load_path={seed_checkpoint}",
        # The losses are to be the seed's own.
        "--optimizer.lr=1e-7",
    ]
    layout = [option for option in layout if more or "validation" not in option]
    options += [*layout, *stream("a", numbered.local), *more]
    return ranks.train(world, *options, loads_weights=True).succeeded()


@pytest.fixture(scope="module")
def validated(ranks: RankServer, numbered: Numbered, seed_checkpoint: str) -> dict[str, Outcome]:
    """A run of each layout that validates, and one that packs."""
    section = [
        "--validation.enable",
        "--validation.steps=-1",
        "--validation.freq=2",
        f"--validation.seq_len={SEQ_LEN}",
    ]
    for name, count in ROWS.items():
        local, rows = str(ranks.folder / f"validation-{name}"), validation_rows(count)
        ranks.run("write_rows", out=local, rows=rows, size_limit=1000).succeeded()
        section.append(f"--mosaic_validation_dataloader.dataset.streams.{name}.local={local}")
    runs = {}
    for name, (_, _, local_batch, _) in LAYOUTS.items():
        batch = f"--validation.local_batch_size={local_batch}"
        runs[name] = train(ranks, numbered, seed_checkpoint, name, *section, batch)
    packing = [
        "--validation.local_batch_size=2",
        "--mosaic_validation_dataloader.dataset.packing",
        f"--mosaic_validation_dataloader.dataset.packing_lanes={LANES}",
    ]
    runs["packed"] = train(ranks, numbered, seed_checkpoint, "two", *section, *packing)
    return runs


def test_the_losses_are_the_means_over_all_targets_and_over_those_of_each_stream(
    ranks: RankServer, seed_checkpoint: str, validated: dict[str, Outcome]
) -> None:
    rows = {name: validation_rows(count) for name, count in ROWS.items()}
    packed = {f"packed {name}": packed_rows(documents, LANES) for name, documents in rows.items()}
    plain = ranks.run(
        "loss_sums", checkpoint=seed_checkpoint, streams={**rows, **packed}, seq_len=SEQ_LEN
    )
    (sums,) = (line["streams"] for line in plain.succeeded().ledger(0).of("loss_sums"))
    for name, run in validated.items():
        own = [sums[f"packed {one}" if name == "packed" else one] for one in ROWS]
        loss, targets = (sum(column) for column in zip(*own, strict=True))
        means = [loss_sum / count for loss_sum, count in own]
        for ledger in run.ledgers:
            found = ledger.of("validated")
            assert [line["step"] for line in found] == [1, 2], name
            for line in found:
                assert line["loss"] == pytest.approx(loss / targets, rel=1e-5), name
                assert line["validation_metrics/n_targets"] == targets
                each = [line[f"validation_metrics/loss/{one}"] for one in ROWS]
                assert each == pytest.approx(means, rel=1e-5), name
                if name != "packed":
                    assert line["validation_metrics/n_batches"] == 4
        told = "  ".join(f"{one}: {mean:.4f}" for one, mean in zip(ROWS, each, strict=True))
        # Of a pipeline, the rank that has the last stage logs.
        log = run.log(1 if name == "pipeline" else 0)
        assert f"validation loss by stream:  {told}" in log, name


def test_training_does_not_notice(
    ranks: RankServer,
    numbered: Numbered,
    seed_checkpoint: str,
    validated: dict[str, Outcome],
) -> None:
    for run in validated.values():
        batches = global_batches(run.ledgers)
        each = len(batches) // STEPS  # more than one with gradient accumulation
        steps = [
            sorted(itertools.chain(*batches[k : k + each])) for k in range(0, len(batches), each)
        ]
        assert steps == cut(numbered.order, 0, BATCH, STEPS)
    for name in ("two", "pipeline"):
        without = train(ranks, numbered, seed_checkpoint, name)
        for mine, theirs in zip(without.ledgers, validated[name].ledgers, strict=True):
            assert not mine.of("validated")
            assert mine.digests == theirs.digests
            assert mine.of("trained") == theirs.of("trained")
            # What the checkpoint of the last step holds.
            assert mine.of("state")[-1] == theirs.of("state")[-1]
