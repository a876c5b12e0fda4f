"""SLURM's compact notations, read without its commands: they may be missing inside a container."""

import re
from collections.abc import Mapping

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
