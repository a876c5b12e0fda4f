"""Whether this process is a rank, and which one, by the variables of torchrun or SLURM."""

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from mosaic_train.errors import TrainError
from mosaic_train.parent_death import LAUNCHER_PID


@dataclass(frozen=True)
class RankEnvironment:
    """Who this process is among all, as torch wants to know it.

    Attributes:
        source: What started it, for messages.
        rank: Number among all ranks.
        local_rank: Number among the ranks of this machine.
        variables: Environment variables that torch reads.
        launched_by_us: Whether our own launcher has started it, which has then prepared the data
            and checked the configuration already.
    """

    source: str
    rank: int
    local_rank: int
    variables: Mapping[str, str]
    launched_by_us: bool = False

    def export(self, environ: MutableMapping[str, str]) -> None:
        """Set the variables, for torch."""
        environ.update(self.variables)


_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def find_rank_environment(environ: Mapping[str, str]) -> RankEnvironment | None:
    """Look for torchrun's variables, then for a SLURM step of several tasks.

    One task in a step (`srun --pty`, or an sbatch script itself) is a launcher: it may well have
    several GPUs.

    Returns:
        None if this process is a launcher.

    Raises:
        TrainError: Some of the variables are missing or not numbers.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        missing = [name for name in _TORCHRUN if name not in environ]
        if missing:
            raise TrainError(
                f"RANK and WORLD_SIZE are set but not {', '.join(missing)}: start ranks with "
                "torchrun, or unset them and let this command start them"
            )
        return _environment(
            "torchrun",
            {name: environ[name] for name in _TORCHRUN},
            launched_by_us=LAUNCHER_PID in environ,
        )
    if "SLURM_PROCID" in environ and int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return _environment("srun", _slurm_variables(environ))
    return None


def _slurm_variables(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        nodes = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]
        per_node = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ["SLURM_TASKS_PER_NODE"]
        return {
            "RANK": environ["SLURM_PROCID"],
            "LOCAL_RANK": environ["SLURM_LOCALID"],
            "WORLD_SIZE": environ["SLURM_STEP_NUM_TASKS"],
            "LOCAL_WORLD_SIZE": str(tasks_on_node(per_node, int(environ["SLURM_NODEID"]))),
            "MASTER_ADDR": environ.get("MASTER_ADDR") or first_host(nodes),
            "MASTER_PORT": environ.get("MASTER_PORT") or str(port_of_step(environ)),
        }
    except (KeyError, ValueError, IndexError) as error:
        raise TrainError(
            f"this looks like a task of srun, but its SLURM variables are incomplete ({error}): "
            "start torchrun on each node instead"
        ) from error


def _environment(
    source: str, variables: dict[str, str], *, launched_by_us: bool = False
) -> RankEnvironment:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        if not variables[name].isdecimal():
            raise TrainError(f"{name} must be a number, got {variables[name]!r} from {source}")
    return RankEnvironment(
        source=source,
        rank=int(variables["RANK"]),
        local_rank=int(variables["LOCAL_RANK"]),
        variables=variables,
        launched_by_us=launched_by_us,
    )


# Above the ports that services use, below the range that kernels hand out for connections.
_FIRST_PORT, _PORTS = 12_000, 16_000


def first_host(node_list: str) -> str:
    """The first host of a node list: `"gpu[003-005,9],login1"` gives `"gpu003"`.

    Raises:
        ValueError: The list is empty, or its first name has several ranges.
    """
    match = re.match(r"([^,\[]*)(?:\[(\d+)[^\]]*\]([^,\[]*)(\[)?)?", node_list.strip())
    prefix, number, suffix, more = match.groups() if match else (None,) * 4
    host = f"{prefix or ''}{number or ''}{suffix or ''}"
    if more:
        raise ValueError(f"node list {node_list!r} has several ranges in a name; set MASTER_ADDR")
    if not host:
        raise ValueError(f"node list {node_list!r} is empty; set MASTER_ADDR")
    return host


def tasks_on_node(per_node: str, node: int) -> int:
    """Tasks on one node of a step: in `"8(x2),4"` nodes 0 and 1 have 8, node 2 has 4.

    Args:
        per_node: `SLURM_STEP_TASKS_PER_NODE`.
        node: Number of the node in the step, from 0.

    Raises:
        ValueError: Not in that notation, or no such node.
    """
    passed = 0
    for part in per_node.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise ValueError(f"tasks per node {per_node!r} cannot be read")
        passed += int(match[2] or 1)
        if node < passed:
            return int(match[1])
    raise ValueError(f"node {node} is not in tasks per node {per_node!r}")


def port_of_step(environ: Mapping[str, str]) -> int:
    """A port that all tasks of a step agree on, and that differs between jobs on one node."""
    number = int(environ["SLURM_JOB_ID"]) * 8 + int(environ.get("SLURM_STEP_ID", "0")) % 8
    return _FIRST_PORT + number % _PORTS
