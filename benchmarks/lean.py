"""How long the start takes, to an import, to `--help` or to an error, beside `import torch`.

Each figure is the processor time of a whole process, user and system, which on a machine that
others use too is steadier than what passes on the clock; both are written to the JSON.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import (
    arguments,
    interleaved,
    machine,
    median,
    ratio,
    report,
    table,
    verdict,
)

ROOT = Path(__file__).resolve().parent.parent
APP = str(ROOT / "apps" / "train")
TORCH, CONFIG = "import torch", "import torchtitan.config"
PACKAGE, CLASSES = "import mosaic_dataloader", "its dataset and loader classes"
HELP, SYNTAX, KEY, VALUE = "--help", "no valid TOML", "an unknown key", "a value out of bounds"
MODEL, TOKENIZER = "an unknown model (spec)", "no such tokenizer"
# The longest way to a mistake: tokenizer and data are in order, and looked at all the same.
FLAVOR = "an unknown flavor, all data read"
# What each may cost at most, as a multiple of which import.
TARGETS = [
    (PACKAGE, TORCH, 2.5),
    (CLASSES, TORCH, 2.5),
    (HELP, CONFIG, 1.15),
    (SYNTAX, CONFIG, 1.15),
    (KEY, CONFIG, 1.15),
    (VALUE, CONFIG, 1.15),
    (MODEL, TORCH, 4),
    (TOKENIZER, TORCH, 4),
    (FLAVOR, TORCH, 4),
]
GOOD = """
[job]
dump_folder = "{folder}/out"
[mosaic_dataloader.dataset]
local = "{folder}/nowhere"
[model]
name = "llama3"
flavor = "debugmodel"
"""
SDKS = ("boto3", "google.cloud.storage", "azure.storage", "oci", "paramiko", "huggingface_hub")


def main(arguments_given: list[str] | None = None) -> None:
    given = arguments(__doc__).parse_args(arguments_given)
    where = machine()
    given.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        commands = _commands(Path(folder))
        wall: dict[str, list[float]] = {name: [] for name in commands}
        runs: dict[str, Callable[[], float]] = {
            name: lambda name=name: _seconds(commands[name], name, wall)  # type: ignore[misc]
            for name in commands
        }
        # Once before: whatever is compiled to bytecode is then compiled.
        for run in runs.values():
            run()
        for past in wall.values():
            past.clear()
        seconds = interleaved(runs, given.rounds)
        loaded = _sdks_loaded(Path(folder))
    lines = [
        [
            name,
            f"{median(own):.2f}",
            f"{median(wall[name]):.2f}",
            f"{ratio(own, seconds[TORCH]):.2f}",
            f"{ratio(own, seconds[CONFIG]):.2f}",
        ]
        for name, own in seconds.items()
    ]
    goals = []
    for name, other, target in TARGETS:
        found = ratio(seconds[name], seconds[other])
        goals.append([f"{name} / {other}", f"{found:.2f}", verdict(found, target, at_most=True)])
    goals.append(
        [
            "object-store SDKs that a loader over local shards loads beyond `import streaming`",
            ", ".join(loaded) or "none",
            verdict(len(loaded), 0, at_most=True),
        ]
    )
    intro = (
        "A process each, from its start to its end, bytecode compiled and files cached; "
        f"medians of {given.rounds} rounds."
    )
    parts = [
        table(["", "processor s", "clock s", "of torch", "of torchtitan.config"], lines),
        table(["ratio of processor times", "median", "target"], goals),
    ]
    report(given, "lean", "Lean start", intro, parts, {"seconds": seconds, "clock": wall}, where)


def _commands(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Each command with the exit code that it has to end with."""
    good = GOOD.format(folder=folder)

    def app(name: str, config: str) -> tuple[list[str], int]:
        path = folder / f"{name}.toml"
        path.write_text(config)
        return [APP, "--config-path", str(path)], 2

    classes = (
        "import mosaic_dataloader as m; m.StreamingTextDataset, m.MosaicParallelAwareDataloader"
    )
    return {
        TORCH: (["-c", TORCH], 0),
        CONFIG: (["-c", CONFIG], 0),
        PACKAGE: (["-c", PACKAGE], 0),
        CLASSES: (["-c", classes], 0),
        HELP: ([APP, "--help"], 0),
        SYNTAX: app("syntax", good + "x = ["),
        KEY: app("key", good + "[training]\nstep = 3\n"),
        VALUE: app("value", good + "[mosaic_dataloader]\nnum_workers = -1\n"),
        MODEL: app("model", good.replace("llama3", "lama3")),
        FLAVOR: app("flavor", _make_data(folder).replace("debugmodel", "9B")),
        TOKENIZER: app("tokenizer", good + f'[mosaic_tokenizer]\nname = "{folder}/none"\n'),
    }


def _make_data(folder: Path) -> str:
    """Rows and a tokenizer, and the configuration that reads them."""
    from mosaic_prepare import PrepareOptions, prepare

    (folder / "text.txt").write_text(" ".join(f"{number:x}" for number in range(20_000)))
    prepare(
        PrepareOptions(
            input=str(folder / "text.txt"),
            output=folder / "data",
            train_tokenizer=folder / "tokenizer",
            vocab_size=300,
            seq_len=64,
        )
    )
    good = GOOD.format(folder=folder).replace(f"{folder}/nowhere", f"{folder}/data")
    name = f'[mosaic_tokenizer]\nname = "{folder}/tokenizer"\n'
    return f"{good}{name}[training]\nseq_len = 64\n"


def _seconds(command: tuple[list[str], int], name: str, wall: dict[str, list[float]]) -> float:
    """Processor seconds of a process."""
    arguments_given, code = command
    begun, before = time.perf_counter(), os.times()
    process = subprocess.run(
        [sys.executable, *arguments_given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    after = os.times()
    wall[name].append(time.perf_counter() - begun)
    if process.returncode != code:
        raise SystemExit(f"{name}: ended with {process.returncode}\n{process.stderr[-2000:]}")
    return (after.children_user - before.children_user) + (
        after.children_system - before.children_system
    )


def _sdks_loaded(folder: Path) -> list[str]:
    """Which SDKs a loader over local shards has loaded after its first batch.

    Those left out that `import streaming` alone brings: it imports transformers, and that the
    hub's library, whatever the streams are.
    """
    script = f"""
import sys
import numpy as np
import streaming
before = set(sys.modules)
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset
from streaming import MDSWriter
with MDSWriter(out={str(folder / "rows")!r}, columns={{"tokens": "ndarray:int32:9"}}) as writer:
    for row in range(64):
        writer.write({{"tokens": np.full(9, row, np.int32)}})
data = StreamingTextDataset(seq_len=8, local={str(folder / "rows")!r}, shuffle=True)
loader = MosaicParallelAwareDataloader(data, dp_rank=0, dp_world_size=1, batch_size=4)
next(iter(loader))
loader.close()
print(*[name for name in {SDKS!r} if name in set(sys.modules) - before], sep="\\n")
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return run.stdout.split()


if __name__ == "__main__":
    main()
