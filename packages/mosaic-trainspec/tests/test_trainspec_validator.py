"""The validator in real gloo process groups on CPU, against the plain mean over all targets.

A fork of this process runs every case (see the worker beside this file); the tests read what its
ranks logged. A case that is missing means that its ranks failed or hung, and shows the worker's
output.
"""

import json
import math
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(400)

# ranks of each layout, and batches per rank for 10 rows in batches of 2 per data parallel rank; the
# same number for these rows as two streams of 4 and 6
LAYOUTS = {
    "single": (1, 5),
    "fsdp2": (2, 3),
    "ddp2": (2, 3),
    "tp2": (2, 5),
    "tp2_plain_loss": (2, 5),
    "cp2": (2, 5),
    "pp2": (2, 5),
    "pp2_interleaved": (2, 5),
    "fsdp3": (3, 2),
    "hsdp4": (4, 2),
    "pp2_fsdp2": (4, 3),
    "pp2_tp2": (4, 5),
}
# Four ranks each, whose two kinds of parallelism are apart above.
SOAKED = ("hsdp4", "pp2_tp2")
BY_STREAM = "validation_metrics/loss/"


@pytest.fixture(scope="module")
def results(
    request: pytest.FixtureRequest, validation_worker: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp("validation")
    report, log = folder / "report.json", folder / "log"
    chosen = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    layouts = {name for name in LAYOUTS if any(one.params.get("layout") == name for one in chosen)}
    told = f"{report}\n{log}\n{' '.join(layouts)}\n"
    validation_worker.stdin.write(told.encode())
    validation_worker.stdin.close()
    code = validation_worker.wait(360)
    assert code == 0, log.read_text()[-4000:]
    cases: dict[str, list[Any]] = json.loads(report.read_text())
    failed = [f"{name}: {ranks}" for name, ranks in cases.items() if "failed" in str(ranks)]
    assert not failed, "\n".join(failed)[-4000:].replace("\\n", "\n")
    return cases


@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=pytest.mark.soak if name in SOAKED else ()) for name in LAYOUTS],
)
def test_every_rank_of_every_layout_logs_the_exact_mean(
    results: dict[str, list[Any]], layout: str
) -> None:
    ranks, batches = LAYOUTS[layout]
    assert len(results[layout]) == ranks
    for rank in results[layout]:
        loss, targets = rank["expected"]
        assert [entry["step"] for entry in rank["logged"]] == [1, 2]
        for entry in rank["logged"]:
            assert entry["loss"] == pytest.approx(loss, rel=1e-6)
            assert entry["validation_metrics/n_targets"] == targets
            assert entry["validation_metrics/n_batches"] == batches
            assert entry["validation_metrics/perplexity"] == pytest.approx(math.exp(entry["loss"]))
        alone, by_stream = (loss_by_stream(entry) for entry in rank["logged"])
        assert alone == {}
        assert by_stream == pytest.approx(rank["by_stream"], rel=1e-6)


def loss_by_stream(entry: dict[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix(BY_STREAM): value
        for name, value in entry.items()
        if name.startswith(BY_STREAM)
    }


def test_validation_leaves_the_training_run_as_it_was(results: dict[str, list[Any]]) -> None:
    (details,) = results["details"]
    assert details["rng_kept"]
    # model, its dropout, and a dropout that had been frozen in eval mode
    assert details["modes"] == [True, True, False]
    assert details["modes_after_error"] is True
    # a buffer that the model counts in, and that it is the same tensor
    assert details["counts"] == [7, True]
    tokens, seconds = details["clock"]
    assert tokens == 1000
    assert seconds == pytest.approx(500, abs=60)
    (entry,) = details["first_two"]["logged"]
    assert entry["tokens"] == 64
    assert entry["seconds"] < 60


def test_steps_masks_and_loaders_without_length(results: dict[str, list[Any]]) -> None:
    (details,) = results["details"]
    loss, targets = details["first_two"]["expected"]
    (entry,) = details["first_two"]["logged"]
    assert entry["loss"] == pytest.approx(loss, rel=1e-6)
    assert entry["validation_metrics/n_targets"] == targets
    assert details["taken"] == entry["validation_metrics/n_batches"] == 2
    assert details["seen"] == [[False, "(torch.Size([2, 16]), 'tokenizer', {})"]] * 2
    # Asked for 99 batches of a set of 5, through a loader without a length, by one of three
    # replica groups of fault tolerant training.
    (entry,) = details["short"]["logged"]
    loss, targets = details["short"]["expected"]
    assert entry["loss"] == pytest.approx(loss, rel=1e-6)
    assert [entry["validation_metrics/n_batches"], targets] == [5, 65]


def test_steps_are_divided_among_streams(results: dict[str, list[Any]]) -> None:
    (details,) = results["details"]
    assert details["shares"] == {"2": [1, 1], "3": [2, 1], "5": [3, 2], "9": [3, 2]}


def test_what_cannot_be_validated_says_so_in_one_line(results: dict[str, list[Any]]) -> None:
    (details,) = results["details"]
    # An error inside the model's mask builder is not swallowed.
    assert details["type_error"] == "TypeError: inside the model"
    for case in ("no_target", "no_batch"):
        assert details[case].startswith("TrainSpecError: the validation set has no target")
    assert details["stream_without_target"].startswith(
        'TrainSpecError: validation stream "empty" has no target to predict in 1 batches'
    )
    assert "validation.steps is 1, too few for a batch of each of the 2" in details["too_few_steps"]
    assert "returned an empty mapping" in details["no_stream"]
    assert len(results["failures"]) == 2
    for rank in results["failures"]:
        for case in ("sized", "unsized"):
            assert "gives 2 batches on one rank and 3 on another" in rank[case]
        assert rank["beyond_limit"] == "none"
        assert "validation batches have shape [2, 16]" in rank["pp_shape"]
        assert "cannot run the pipeline schedule ZBVZeroBubble" in rank["v_schedule"]
        assert "set it to training.local_batch_size = 2" in rank["pp_batch"]
        assert "gives no batch at all on one rank" in rank["none_on_one"]
        logged, (loss, targets) = rank.pop("evened_out")
        assert logged["loss"] == pytest.approx(loss, rel=1e-6)
        assert logged["validation_metrics/n_targets"] == targets
        assert logged["validation_metrics/n_batches"] == 3
        logged, by_stream = rank.pop("evened_out_by_stream")
        assert loss_by_stream(logged) == pytest.approx(by_stream, rel=1e-6)
        assert not any("\n" in message for message in rank.values())
