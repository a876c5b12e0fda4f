"""Real training on CPU with gloo, through the app's own launcher and through torchrun."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from mosaic_train.errors import TrainError
from mosaic_train.run_lock import lock_folder

TWO = ("--nproc-per-node", "2")


def wait_until_gone(processes: Callable[[], list[int]]) -> None:
    deadline = time.monotonic() + 60
    while left := processes():
        if time.monotonic() > deadline:
            for process in left:
                os.kill(process, signal.SIGKILL)
            pytest.fail("ranks outlive their launcher")
        time.sleep(0.1)


def test_two_ranks_train_and_a_killed_run_goes_on_under_torchrun(app: Any) -> None:
    """FSDP on two ranks: the losses after a kill and a resume are the uninterrupted run's."""
    config = app.config(("interval = 1000", "interval = 2"))
    run = app.start_forked("--config-path", config, *TWO, "--training.steps", "9999")
    deadline = time.monotonic() + 300
    while 4 not in (seen := app.losses(run.out.read_text())):
        assert Path(f"/proc/{run.pid}").exists(), run.errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Rank 0 holds the dump folder while it trains.
    with pytest.raises(TrainError, match="in use by another run"):
        lock_folder(str(app.folder / "out"))
    os.kill(run.pid, signal.SIGKILL)
    log = app.server.wait(run).stdout
    wait_until_gone(app.server.processes)
    assert "Applied FSDP to the model" in log
    assert log.count("step:  3") == 1, "only one rank logs"
    assert (app.folder / "out" / "checkpoint" / "step-2" / ".metadata").is_file()

    # From step 2, with another way to start ranks.
    resume = ["--config-path", config, "--training.steps", "4", "--checkpoint.load_step", "2"]
    result = app.torchrun(1, *resume, "--training.local_batch_size", "4")
    assert result.returncode == 0, result.stdout + result.stderr
    resumed = app.losses(result.stdout)
    assert set(resumed) == {3, 4}
    assert resumed == pytest.approx({step: seen[step] for step in resumed}, rel=1e-4)
    assert result.stdout.count("step:  3/4") == 1, "only one rank logs"
    # The killed run may have saved later steps.
    assert result.stdout.count("the last checkpoint is that of step ") == 1
    assert "continue training with: the same command and --checkpoint.load_step -1" in result.stdout
    assert seen[1] > seen[4]


# Before it meets the others, which wait for it.
BREAKS = """
import os
from torchtitan import train
class Trainer(train.Trainer):
    def __init__(self, config):
        if os.environ["RANK"] == "1":
            {statement}
        super().__init__(config)
train.Trainer = Trainer
"""


@pytest.mark.parametrize(
    ("statement", "code", "told", "traceback"),
    [
        ("raise RuntimeError('on purpose')", 1, "error: rank 1 failed", True),
        (
            "from mosaic_dataloader import MosaicDataError; raise MosaicDataError('a bad shard')",
            2,
            "a bad shard",
            False,
        ),
    ],
)
def test_a_failing_rank(app: Any, statement: str, code: int, told: str, traceback: bool) -> None:
    """Its traceback and exit code 1; or, for a mistake, one line and exit code 2."""
    (app.folder / "breaks.py").write_text(BREAKS.format(statement=statement))
    config = app.config()
    options = (*TWO, "--experimental.custom_import", "breaks")
    result = app.forked("--config-path", config, *options, PYTHONPATH=str(app.folder))
    assert result.returncode == code, result.stderr
    assert [line for line in app.error_lines(result.stderr) if told in line]
    assert len(app.error_lines(result.stderr)) == 1
    assert ("Traceback" in result.stderr) == traceback
    assert ("[rank 1] Traceback" in result.stderr) == traceback
    assert "ChildFailedError" not in result.stderr
    assert not app.server.processes()


# An interpreter that is given command lines with mistakes, then becomes the command.
COMMAND = """
import json, runpy, sys
sys.path.insert(0, sys.argv[1])
from mosaic_train.cli import main
for arguments in json.loads(sys.argv[2]):
    code = main(arguments)
    print("code", code, "torch" in sys.modules, flush=True)
    print("code", code, file=sys.stderr, flush=True)
print("early:", *{"streaming", "transformers"} & set(sys.modules), flush=True)
del sys.argv[0], sys.argv[1]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_command_tells_mistakes_early_and_ends_its_ranks_at_sigterm(app: Any) -> None:
    """As a user starts it, with interpreters of its own: importing torchtitan takes seconds.

    For help and mistakes, and for paths that lead nowhere, neither streaming nor transformers is
    imported; for a file that is missing or not TOML, not even torch.
    """
    broken = app.config(("shuffle = true", "shufle = true")).rename(app.folder / "broken.toml")
    malformed, nowhere = app.folder / "malformed.toml", app.folder / "nowhere"
    malformed.write_text("[training]\nsteps = \n")
    lost = app.folder / "lost.toml"
    lost.write_text(
        f'[mosaic_dataloader.dataset]\nlocal = "{nowhere}"\n'
        f'[mosaic_tokenizer]\nname = "{nowhere}"\n[model]\nname = "lama3"\n'
    )
    files = (app.folder / "none.toml", malformed, broken, lost)
    mistakes = [["--config-path", str(file)] for file in files]
    mistakes.insert(2, ["--help"])
    good = [str(app.config()), "--training.steps", "9999"]
    command = [sys.executable, "-c", COMMAND, app.command()[1], json.dumps(mistakes)]
    errors = app.folder / "errors"
    with open(errors, "w") as file:
        process = subprocess.Popen(
            [*command, "--config-path", *good],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=app.environment,
            cwd=app.folder,
        )
    assert process.stdout is not None
    log = list(takewhile(lambda line: not app.losses(line), process.stdout))
    assert process.poll() is None, "".join(log) + errors.read_text()
    assert len(app.processes()) == 2
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    early, _, late = "".join(log).partition("early:")
    told = errors.read_text()
    assert "Traceback" not in early + late + output + told
    wait_until_gone(app.processes)
    assert not list(Path(app.folder).glob("out/checkpoint/*"))
    assert "no checkpoint was kept: the first one is saved after step 1,000" in output

    assert late.startswith("\n"), late
    ended = re.findall(r"^code (\d+) (\w+)$", early, re.MULTILINE)
    assert [code for code, _ in ended] == ["2", "2", "0", "2", "2"]
    assert [torch for _, torch in ended[:2]] == ["False", "False"]
    assert "--nproc-per-node" in early.partition("code 0")[0]
    assert f"reading {broken}; importing" in early
    assert f"reading {malformed}" not in early
    parts = told.replace("code 0", "code 2").split("code 2\n")
    assert [len(app.error_lines(each)) for each in parts] == [1, 1, 0, 1, 3, 0], told


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
def test_an_exported_checkpoint_computes_the_same_in_transformers(
    app: Any, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a run on two ranks, and of a model whose embedding is its output too."""
    import torch
    from torch.distributed.checkpoint import save
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mosaic_config import MosaicConfigManager
    from mosaic_train import cli
    from mosaic_trainspec.checks.checkpoint import load_entries
    from mosaic_trainspec.checks.model import find_model

    config = app.config()
    arguments = ["--config-path", str(config), "--model.name", name]
    model = find_model(MosaicConfigManager().parse_args(arguments))
    made = model.spec.model_cls(model.args)
    torch.manual_seed(1)
    with torch.no_grad():
        made.init_weights()
    folder = app.folder / "out" / "checkpoint"
    if name == "llama3":
        run = app.forked(*arguments, *TWO, "--optimizer.lr", "0.01")
        assert run.returncode == 0, run.stdout + run.stderr
        state = made.state_dict()
        load_entries(folder / "step-2", state)
    else:
        save(made.state_dict(), checkpoint_id=str(folder / "step-2"), no_dist=True)

    exported = str(app.folder / "exported")
    assert cli.main([*arguments, "--export", exported]) == 0
    assert "sample: " in capfd.readouterr().out
    tokens = torch.arange(5, 35)[None]
    with torch.no_grad():
        expected = made(tokens)
        logits = AutoModelForCausalLM.from_pretrained(exported)(tokens).logits
    assert logits.std() > 0.1
    assert torch.allclose(logits, expected, atol=1e-4), (logits - expected).abs().max()
    tokenizer, original = map(AutoTokenizer.from_pretrained, (exported, f"{app.data}/tokenizer"))
    assert tokenizer("alpha beta").input_ids == original("alpha beta").input_ids
    # What `generate` of these models takes.
    assert set(tokenizer("alpha beta")) == {"input_ids", "attention_mask"}

    if name == "llama3":
        return
    for target, options, told in [
        (exported, [], f"--export {exported}: it exists and is not an empty folder"),
        ("new", ["--at-step", "7"], "--at-step 7: there is no complete checkpoint of that step"),
        ("new", ["--model.flavor", "debugmodel_moe"], "qwen3 debugmodel_moe is neither"),
        ("new", ["--model.flavor", "0.6B"], "holds another model than qwen3 0.6B"),
        ("new", ["--checkpoint.folder", "none"], "none holds no complete checkpoint"),
    ]:
        assert cli.main([*arguments, "--export", target, *options]) == 2
        (line,) = app.error_lines(capfd.readouterr().err)
        assert told in line
    assert not os.path.exists("new")


def test_a_later_row_outside_the_vocabulary_is_named_by_the_rank(app: Any) -> None:
    """Beyond the rows that the checks look at; and again by a run that is resumed there."""
    out = app.folder / "late"
    with MDSWriter(out=str(out), columns={"tokens": "ndarray:int32"}) as writer:
        for number in range(60):
            writer.write({"tokens": np.full(33, 5000 if number == 45 else 5, np.int32)})
    config = app.config(("shuffle = true", "shuffle = false"))
    arguments = ["--config-path", config, "--training.steps", "6", "--checkpoint.interval", "2"]
    arguments += ["--training.local_batch_size", "15"]
    arguments += ["--mosaic_dataloader.dataset.streams.words.local", out]
    for first_step in (1, 3):
        run = app.forked(*arguments)
        assert run.returncode == 2, run.stdout + run.stderr
        (line,) = app.error_lines(run.stderr)
        assert 'stream "words", shard shard.00000.mds, sample 45 of the shard' in line
        assert "token id 5000 is outside the model's vocabulary of 2,048" in line
        assert "Traceback" not in run.stderr
        # Three steps of fifteen rows come before it.
        steps = app.losses(run.stdout + run.stderr)
        assert (min(steps), max(steps)) == (first_step, 3)


@pytest.mark.slow
def test_a_disk_that_is_full_ends_the_run_in_one_line(app: Any) -> None:
    """The checkpoint of the last step does not fit; torch wraps what its writer has met."""
    disk = app.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        options = ("--nproc-per-node", "1", "--job.dump_folder", str(disk / "out"))
        run = app.forked("--config-path", app.config(), *options)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
    assert run.returncode == 2, run.stdout + run.stderr
    assert "room for 1 is needed: the disk will be full" in run.stdout
    (line,) = app.error_lines(run.stderr)
    assert f"no space left on the disk of {disk}" in line
    assert "Traceback" not in run.stdout + run.stderr
