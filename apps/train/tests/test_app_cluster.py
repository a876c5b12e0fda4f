"""The schedulers' files start what they say: run with stand-ins for torchrun, srun and scontrol."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from mosaic_config import MosaicConfigManager
from mosaic_dataloader.util.arguments import parse_bytes

APP = Path(__file__).resolve().parent.parent
CONFIGS = APP / "configs"
SLURM = CONFIGS / "llama3_8b.slurm"
JOB = CONFIGS / "llama3_8b.pytorchjob.yaml"


def started(script: list[str], folder: Path, **env: str) -> tuple[Any, Any]:
    """Run a command; the arguments that torchrun gets, and the configuration after them."""
    told = folder / "arguments.json"
    tell = f"import json, sys; json.dump(sys.argv[1:], open({str(told)!r}, 'w'))"
    programs = {
        ".venv/bin/torchrun": tell,
        # Its own options end where the command begins.
        "bin/srun": "import os, sys; a = sys.argv[1:]; i = a.index('.venv/bin/torchrun')\n"
        "os.execv(a[i], a[i:])",
        "bin/scontrol": "import os, sys\n"
        "assert sys.argv[1:] == ['show', 'hostnames', os.environ['SLURM_JOB_NODELIST']]\n"
        "print('gpu7\\ngpu8')",
    }
    for name, code in programs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(0o755)
    path_variable = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(script, cwd=folder, env=env | {"PATH": path_variable}, check=True, timeout=60)
    parsed, unknown = get_args_parser().parse_known_args(json.loads(told.read_text()))
    assert not unknown
    assert parsed.training_script == "apps/train/__main__.py"
    arguments = parsed.training_script_args
    place = arguments.index("--config-path") + 1
    # Named from the repository's root.
    assert arguments[place].startswith("apps/train/configs/")
    arguments[place] = str(APP.parent.parent / arguments[place])
    return parsed, MosaicConfigManager().parse_args(arguments)


def test_slurm(tmp_path: Path) -> None:
    parsed, config = started(
        ["bash", "-eu", str(SLURM), "--training.steps", "7"],
        tmp_path,
        SLURM_JOB_NODELIST="gpu[7-8]",
        SLURM_JOB_ID="4711",
        SLURM_NNODES="2",
        SLURM_CPUS_PER_TASK="96",
    )
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.max_restarts) == ("2", "8", 0)
    assert (parsed.rdzv_backend, parsed.rdzv_endpoint) == ("c10d", "gpu7:24711")
    assert parsed.rdzv_id == "4711"
    assert config.parallelism.data_parallel_replicate_degree == 2
    assert config.training.steps == 7
    lines = SLURM.read_text().splitlines()
    given = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert given["ntasks-per-node"] == "1", "one torchrun on each node"
    assert given["gpus-per-node"] == str(parsed.nproc_per_node)
    # Without it, a job that is queued again begins its log anew.
    assert {"requeue", "open-mode"} <= set(given)


@pytest.mark.parametrize("role", ["Master", "Worker"])
def test_pytorchjob(tmp_path: Path, role: str) -> None:
    job = yaml.safe_load(JOB.read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    assert set(job["spec"]) == {"nprocPerNode", "runPolicy", "pytorchReplicaSpecs"}
    assert isinstance(job["spec"]["nprocPerNode"], str)
    specs = job["spec"]["pytorchReplicaSpecs"]
    assert set(specs) == {"Master", "Worker"}
    assert specs["Master"]["replicas"] == 1
    nodes = sum(spec["replicas"] for spec in specs.values())
    assert specs[role]["restartPolicy"] == "OnFailure"
    pod = specs[role]["template"]["spec"]
    (container,) = pod["containers"]
    # The operator finds the port by these two names.
    assert container["name"] == "pytorch"
    assert container["ports"] == [{"name": "pytorchjob-port", "containerPort": 23456}]
    parsed, config = started(
        [*container["command"], *container["args"]],
        tmp_path,
        # What the operator sets.
        RANK="3",
        WORLD_SIZE="32",
        MASTER_ADDR="llama3-8b-master-0",
        MASTER_PORT="23456",
    )
    assert (parsed.nnodes, parsed.node_rank, parsed.max_restarts) == (str(nodes), 3, 0)
    assert (parsed.master_addr, parsed.master_port) == ("llama3-8b-master-0", 23456)
    assert parsed.nproc_per_node == job["spec"]["nprocPerNode"]
    assert int(parsed.nproc_per_node) == container["resources"]["limits"]["nvidia.com/gpu"]
    assert config.parallelism.data_parallel_replicate_degree == nodes
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(volumes) == set(mounts)
    assert mounts["shm"] == "/dev/shm"
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    # Shards lie on the machine's disk and fit there; checkpoints do not, and outlive the pod.
    loaders = [config.mosaic_dataloader, config.mosaic_validation_dataloader]
    streams = [stream for loader in loaders for stream in loader.dataset.streams.values()]
    assert streams
    assert all(stream.local.startswith(f"{mounts['nvme']}/") for stream in streams)
    room = int(volumes["nvme"]["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
    assert room == int(container["resources"]["requests"]["ephemeral-storage"][:-2]) << 30
    assert parse_bytes("cache_limit", config.mosaic_dataloader.dataset.cache_limit) < room
    assert config.job.dump_folder.startswith(f"{mounts['shared']}/")
    assert "persistentVolumeClaim" in volumes["shared"]
