"""Through torchtitan's own command on CPU: layouts, resumes, models, validation."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from titan_data import SEQ_LEN

LAYOUTS: dict[str, tuple[int, list[str]]] = {
    # Ranks, and what they are told.
    "fsdp": (2, ["--training.local-batch-size", "2"]),
    "tp": (2, ["--parallelism.tensor-parallel-degree", "2"]),
    "pp": (
        2,
        [
            *("--parallelism.pipeline-parallel-degree", "2"),
            *("--parallelism.pipeline-parallel-schedule", "1F1B"),
        ],
    ),
}
MODELS = {
    # As it is shipped.
    "qwen3": ("qwen3", "qwen3_debugmodel"),
    # Fewer layers.
    "qwen3_moe": ("titan_configs", "qwen3_moe"),
    "deepseek_v3": ("titan_configs", "deepseek_v3"),
}


def jobs(data: Path, work: Path) -> list[list[dict[str, Any]]]:
    """All runs: two lists beside each other, each in the order in which its runs need another's."""
    common = [
        *("--training.seq-len", str(SEQ_LEN), "--debug.seed", "7", "--validator.steps", "-1"),
    ]
    own = f"mosaic_titan.use_mosaic={json.dumps({'config_file': str(data / 'data.toml')})}"
    streams = ["--override.imports", own]
    validated = [*streams, "--validator.enable", "--validator.freq", "4"]
    found: list[list[dict[str, Any]]] = [[]]

    def job(
        name: str, world: int, model: tuple[str, str], *args: str, folder: str = "", **more: Any
    ) -> None:
        start = ["--module", model[0], "--config", model[1], *common]
        place = ["--dump-folder", str(work / (folder or name))]
        found[-1].append({"name": name, "world": world, "args": [*start, *place, *args], **more})

    llama = ("titan_configs", "llama3")
    batch = ["--training.local-batch-size", "4"]
    saved = ["--checkpoint.enable", "--training.steps", "4", "--checkpoint.interval", "2"]
    loaded = [*saved, "--checkpoint.load-only", "--checkpoint.load-step"]
    job("full", 1, llama, *validated, *batch, *saved)
    for name, (world, args) in LAYOUTS.items():
        own_batch = [] if name == "fsdp" else batch
        job(name, world, llama, *validated, *own_batch, *args, *loaded, "2", folder="full")
    for world in (1, 3):
        job(
            *(f"validate_{world}", world, llama, *validated, *batch, *loaded, "4"),
            folder="full",
            examine=True,
        )
    found.append([])
    for name, model in MODELS.items():
        job(name, 1, model, *streams, *batch, "--training.steps", "1")
    packed = ("titan_configs", "packed")
    own_steps = ["--training.steps", "4", "--validator.freq", "4", "--checkpoint.enable"]
    own_steps += ["--checkpoint.interval", "2"]
    job("packed", 1, packed, *own_steps, *batch)
    again = ["--checkpoint.load-only", "--checkpoint.load-step", "2"]
    job(
        *("packed_fsdp", 2, packed, *own_steps, *again, "--training.local-batch-size", "2"),
        folder="packed",
    )
    return found


@pytest.fixture(scope="module")
def seen(
    titan_worker: Any, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """What each rank saw, by run."""
    work = tmp_path_factory.mktemp("runs")
    lists = jobs(data, work)
    wanted = [one for each in lists for one in each]
    for one in wanted:
        one["port"] = _free_port()
    plan = work / "jobs.json"
    plan.write_text(json.dumps(lists))
    titan_worker.stdin.write(f"{plan}\n{data}\n".encode())
    titan_worker.stdin.close()
    code = titan_worker.wait(500)
    assert code == 0, "\n".join(log.read_text()[-3000:] for log in sorted(work.glob("log.*")))
    return {
        one["name"]: [
            json.loads((work / f"{one['name']}.{rank}.json").read_text())
            for rank in range(one["world"])
        ]
        for one in wanted
    }


def by_step(ranks: list[dict[str, Any]], batches: int = 1) -> list[list[list[int]]]:
    """Rows of each step over all data-parallel ranks, each rank having given so many batches."""
    rows = [rank["rows"] for rank in ranks]
    count = len(rows[0]) // batches
    return [
        sorted(
            row
            for own in rows
            for micro_batch in own[step * batches : (step + 1) * batches]
            for row in micro_batch
        )
        for step in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resume_under_another_layout_goes_on_exactly(seen: Any, layout: str) -> None:
    full = seen["full"]
    reference = by_step(full)
    assert len(reference) == 4 and len({tuple(row) for step in reference for row in step}) == 16
    ranks = seen[layout]
    if layout == "fsdp":
        assert by_step(ranks) == reference[2:]
    else:
        # Ranks of one replica get the same rows; with pipelines, one of them at a time.
        for rank in ranks:
            assert by_step([rank], 4 if layout == "pp" else 1) == reference[2:]
    expected = full[0]["losses"]
    losses = ranks[-1]["losses"]
    assert list(losses) == ["3", "4"]
    for step, loss in losses.items():
        assert loss == pytest.approx(expected[step], rel=1e-4)
    assert ranks[-1]["validation"]["4"] == pytest.approx(full[0]["validation"]["4"], rel=1e-4)
    assert ranks[-1]["by_stream"]["4"] == pytest.approx(full[0]["by_stream"]["4"], rel=1e-4)
    # What was counted before the checkpoint counts on.
    assert ranks[-1]["data"] == full[0]["data"]
    assert full[0]["data"]["data/samples_seen"] == 16
    assert full[0]["data"]["data/tokens_seen"] == 16 * SEQ_LEN
    assert (full[0]["data"]["data/stage"], full[0]["data"]["data/web/weight"]) == (2, 0.25)
    for rank in (*full, *ranks):
        assert rank["begun"] == ["stage 2 of 2 begins at step 3: web 0.25, code 0.75"]
    assert full[0]["data"]["data/web/tokens"] == SEQ_LEN * full[0]["data"]["data/web/samples"]


@pytest.mark.slow
def test_validation_is_the_exact_mean_for_any_number_of_ranks(seen: Any) -> None:
    exact = seen["validate_1"][0]["exact"]
    assert [targets for _, targets in exact.values()] == [13 * SEQ_LEN, 8 * SEQ_LEN]
    by_stream = {
        f"validation_metrics/loss/{name}": loss / targets for name, (loss, targets) in exact.items()
    }
    mean = sum(loss for loss, _ in exact.values()) / (21 * SEQ_LEN)
    for world in (1, 3):
        for rank in seen[f"validate_{world}"]:
            assert rank["validation"]["0"] == pytest.approx(mean, rel=1e-5)
            assert rank["by_stream"]["0"] == pytest.approx(by_stream, rel=1e-5)
    assert seen["full"][0]["validation"]["4"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.slow
def test_no_document_attends_to_another(seen: Any) -> None:
    assert seen["validate_1"][0]["isolated"]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_other_models_train(seen: Any, model: str) -> None:
    (rank,) = seen[model]
    assert list(rank["losses"]) == ["1"] and 0 < rank["losses"]["1"] < 20
    assert by_step([rank]) == by_step(seen["full"])[:1]


@pytest.mark.slow
def test_packed_rows_of_a_users_own_config(seen: Any) -> None:
    (full,), ranks = seen["packed"], seen["packed_fsdp"]
    assert by_step(ranks) == by_step([full])[2:]
    for step in ("3", "4"):
        assert ranks[0]["losses"][step] == pytest.approx(full["losses"][step], rel=1e-4)
    # Ranks have different numbers of rows to validate, and end together.
    assert ranks[0]["validation"]["4"] == pytest.approx(full["validation"]["4"], rel=1e-4)
    assert full["by_stream"]["4"] == {}  # of the only stream, nothing more is logged
    # The epoch is that of the lanes of one's own.
    counts = {name: value for name, value in full["data"].items() if name != "data/epoch"}
    for rank in ranks:
        assert {name: rank["data"][name] for name in counts} == counts


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return int(one.getsockname()[1])
