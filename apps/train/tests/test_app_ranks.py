"""Who is a rank, and which ranks print."""

import os
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_train.cli import parse_arguments
from mosaic_train.environment import find_rank_environment, first_host, tasks_on_node
from mosaic_train.errors import TrainError

TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "1234",
}
SRUN = {
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "12",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_TASKS_PER_NODE": "8,4",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
}


def test_torchrun_is_a_rank_and_comes_first() -> None:
    rank = find_rank_environment(SRUN | TORCHRUN)
    assert rank is not None
    assert (rank.source, rank.rank) == ("torchrun", 3)
    assert not rank.launched_by_us
    ours = find_rank_environment(TORCHRUN | {"MOSAIC_TRAIN_LAUNCHER_PID": "1"})
    assert ours is not None
    assert ours.launched_by_us
    with pytest.raises(TrainError, match="MASTER_PORT"):
        find_rank_environment({k: v for k, v in TORCHRUN.items() if k != "MASTER_PORT"})
    with pytest.raises(TrainError, match="RANK must be a number"):
        find_rank_environment(TORCHRUN | {"RANK": "x"})


def test_tasks_of_srun_are_ranks() -> None:
    rank = find_rank_environment(SRUN)
    assert rank is not None
    environ = rank.variables
    assert environ == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "12",
        "LOCAL_WORLD_SIZE": "4",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": environ["MASTER_PORT"],
    }
    other = find_rank_environment(SRUN | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"})
    assert other is not None
    assert other.variables["MASTER_PORT"] == environ["MASTER_PORT"]
    assert 1024 < int(environ["MASTER_PORT"]) < 32768
    with pytest.raises(TrainError, match="SLURM_LOCALID"):
        find_rank_environment({k: v for k, v in SRUN.items() if k != "SLURM_LOCALID"})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RANK": "0"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},  # srun --pty bash
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "16"},  # the batch script itself
    ],
)
def test_all_else_is_a_launcher(environ: dict[str, str]) -> None:
    assert find_rank_environment(environ) is None


@pytest.mark.parametrize(
    ("node_list", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[003-005,9],login1", "gpu003"),
        ("a[12]-ib,b", "a12-ib"),
    ],
)
def test_first_host(node_list: str, first: str) -> None:
    assert first_host(node_list) == first


def test_first_host_that_cannot_be_known() -> None:
    for node_list in ("", "rack[1-2]n[1-4]"):
        with pytest.raises(ValueError, match="MASTER_ADDR"):
            first_host(node_list)


@given(st.lists(st.tuples(st.integers(1, 16), st.integers(1, 5)), min_size=1, max_size=5))
def test_tasks_per_node(groups: list[tuple[int, int]]) -> None:
    text = ",".join(f"{tasks}(x{nodes})" if nodes > 1 else str(tasks) for tasks, nodes in groups)
    flat = [tasks for tasks, nodes in groups for _ in range(nodes)]
    assert [tasks_on_node(text, node) for node in range(len(flat))] == flat
    with pytest.raises(ValueError, match="not in"):
        tasks_on_node(text, len(flat))


def test_arguments() -> None:
    arguments = parse_arguments(["--config-path", "a", "--nproc_per_node=2", "--x.y", "1"])
    assert arguments.config_args == ["--config-path", "a", "--x.y", "1"]
    assert arguments.nproc_per_node == 2
    looked = parse_arguments(
        ["--inspect-data", "--nodes", "2", "--step-time=0.5", "--bandwidth", "1gb", "--x.y", "1"]
    )
    assert looked.config_args == ["--x.y", "1"]
    assert (looked.nodes, looked.step_time, looked.bandwidth) == (2, 0.5, "1gb")
    for wrong in (
        *(["--nproc-per-node"], ["--nproc-per-node=-1"], ["--nproc-per-node=2"] * 2),
        *(["--export"], ["--export", "--check"], ["--check=x"], ["--check", "--inspect-data"]),
        ["--bandwidth", "1gb"],
        ["--inspect-data", "--step-time", "fast"],
        ["--inspect-data", "--step-time", "0"],
        ["--inspect-data", "--step-time=1", "--step-time=1"],
    ):
        with pytest.raises(TrainError):
            parse_arguments(wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal")
def test_a_rank_whose_launcher_is_gone_already_ends_itself(app: Any) -> None:
    code = (
        "from mosaic_train.parent_death import end_with_launcher\n"
        "end_with_launcher()\n"
        "print('alive')"
    )
    for launcher, alive in ((os.getpid(), True), (1, False)):
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=app.command()[1],
            env=app.environment | {"MOSAIC_TRAIN_LAUNCHER_PID": str(launcher)},
        )
        assert (result.stdout == "alive\n") == alive, result.stderr
        assert (result.returncode == 0) == alive
