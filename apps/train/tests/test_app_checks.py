"""One report of everything before the first step: mistakes together, costs with their numbers."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaming import MDSWriter

from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset
from mosaic_dataloader.checks import caches, filesystems, vocabulary
from mosaic_dataloader.checks.locality import machines_per_shard, shards_read
from mosaic_dataloader.checks.rows import row_lengths
from mosaic_dataloader.order.assign import node_of, rows_of_rank
from mosaic_dataloader.reading.document_length import tokens_per_row
from mosaic_train import cli
from mosaic_trainspec.checks.report import Report


@pytest.fixture
def outcome(app: Any, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the launcher in this process, up to where ranks would start."""
    monkeypatch.setattr("mosaic_train.launch.launch", lambda *_: 0)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        capfd.readouterr()
        code = cli.main(["--config-path", str(app.folder / "config.toml"), *arguments])
        out, err = capfd.readouterr()
        return code, out, [line for line in err.splitlines() if line.strip()]

    return run


def write_rows(folder: Path, rows: list[list[int]], encoding: str, **options: Any) -> Path:
    with MDSWriter(columns={"tokens": encoding}, out=str(folder), **options) as writer:
        for row in rows:
            array = np.array(row, np.uint16 if encoding == "bytes" else encoding.split(":")[1])
            writer.write({"tokens": array.tobytes() if encoding == "bytes" else array})
    return folder


def test_mistakes_of_every_kind_are_told_together(app: Any, outcome: Any) -> None:
    """Each in a line of its own, whichever of them come first."""
    stream = "[mosaic_dataloader.dataset.streams.{}]\nlocal = '{}'\n"
    app.config(
        extra=stream.format("lost", app.folder / "lost")
        + stream.format("gone", app.folder / "gone")
    )
    code, _, lines = outcome(
        *("--model.flavor", "9B", "--training.global_batch_size", "7", "--training.seq_len", "31"),
        *("--mosaic_tokenizer.name", str(app.folder / "none")),
        *("--checkpoint.load_step", "3", "--checkpoint.exclude_from_loading", "dataloder"),
    )
    assert code == 2
    assert all(line.startswith("error: ") for line in lines), lines
    text = "\n".join(lines)
    for expected in ("'9B'", "global_batch_size 7", "seq_len 31", "tokenizer", "dataloder"):
        assert sum(expected in line for line in lines) == 1, (expected, text)
    assert '"lost"' in text
    assert '"gone"' in text
    assert len(lines) == 7, text

    # What is to be prepared is not, once anything is known to be wrong.
    prepared = app.folder / "prepared"
    code, _, lines = outcome(
        *("--mosaic_prepare.input", "python-stdlib", "--mosaic_prepare.output", str(prepared)),
        *("--model.flavor", "9B", "--training.seq_len", "31"),
    )
    assert (code, len(lines)) == (2, 2)
    assert not prepared.exists()


def test_one_line_when_all_is_well_and_warnings_say_what_they_cost(
    app: Any, outcome: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config()
    code, out, errors = outcome("--training.global_batch_size", "8")
    assert (code, errors) == (0, [])
    (line,) = [line for line in out.splitlines() if "checked " in line]
    assert "INFO - checked llama3 debugmodel, " in line
    dataset = StreamingTextDataset(seq_len=32, local=str(app.data / "data"))
    of_them = f"train on 16 of them, {2 * 8 / len(dataset):.3g} epochs"
    assert f"{len(dataset):,} samples per epoch from 1 stream, 2 steps {of_them}: all is" in line
    assert re.search(r": all is well \(checks took \d+\.\d s\)$", line)

    # So does the preparation of data, which takes long.
    (app.folder / "text.txt").write_text("one two three " * 400)
    made = ("--mosaic_prepare.input", str(app.folder / "text.txt"), "--mosaic_prepare.processes")
    _, out, errors = outcome(*made, "1", "--mosaic_prepare.output", str(app.folder / "prepared"))
    assert errors == []
    assert re.search(r"INFO - prepared .*prepared: [\d,]+ tokens in", out)

    # As a rank of torchrun that does not tell.
    from mosaic_config import MosaicConfigManager
    from mosaic_train.setup import logger, prepare_and_check

    told: list[str] = []
    monkeypatch.setattr(logger, "warning", lambda _, line: told.append(line))
    path = str(app.folder / "config.toml")
    short = ["--model.name", "qwen3", "--training.seq_len", "4098", "--checkpoint.no-enable"]
    config = MosaicConfigManager().parse_args(["--config-path", path, *short])
    prepare_and_check(config, world_size=1, ranks_here=1, log=False)
    assert told == []
    prepare_and_check(config, world_size=1, ranks_here=1)
    assert len(told) == 2
    assert any("exceeds the 4096 positions that qwen3 debugmodel" in line for line in told)
    assert any("hold 33 tokens" in line and "99% of what is computed" in line for line in told)


def test_noted_row_lengths_are_warned_of_once(app: Any, outcome: Any) -> None:
    """By the checks, and not by the loader, which would do so in every process."""
    app.config()
    code, out, errors = outcome(
        *("--training.seq_len", "64", "--validation.enable", "--validation.seq_len", "16"),
        *("--mosaic_validation_dataloader.dataset.streams.held.local", f"{app.data}/data"),
    )
    assert code == 0, errors
    for stream, words in [
        ("words", "hold 33 tokens, fewer than training.seq_len = 64: 48% of what is computed"),
        ("held", "hold 33 tokens, of which validation.seq_len = 16 takes the first 17: 48%"),
    ]:
        (line,) = [line for line in out.splitlines() if f'stream "{stream}"' in line]
        assert words in line
        assert "prepare the data for this one" in line


def test_streams_seen_too_often_and_positions_left_out(app: Any, outcome: Any) -> None:
    app.config()
    dataset = StreamingTextDataset(seq_len=32, local=str(app.data / "data"))
    steps = 5 * len(dataset) // 2
    code, out, _ = outcome("--training.steps", str(steps))
    assert code == 0
    assert 'stream "words" is seen 5 times by the end of the run' in out
    many = ("--training.steps", str(steps), "--mosaic_dataloader.dataset.max_repeats", "4.5")
    code, _, lines = outcome(*many)
    (line,) = [line for line in lines if "max_repeats" in line]
    assert code == 2
    assert 'stream "words" is seen 5 times by the end of the run' in line
    assert "and may be seen 4.5 times" in line
    assert "raise mosaic_dataloader.dataset.max_repeats or the stream's own" in line
    skip = ("--mosaic_dataloader.dataset.skip", "10:20,100:300")
    code, out, lines = outcome("--inspect-data", "1", "--at-step", "8", *skip)
    assert (code, lines) == (0, [])
    assert "step 8: 1 of its 2 rows, sample 24 and on" in out
    code, _, lines = outcome("--mosaic_dataloader.dataset.skip", "20:10")
    assert (code, len(lines)) == (2, 1)
    assert "skip has '20:10', which holds no position" in lines[0]


def test_too_few_samples_and_too_long_validation(app: Any, outcome: Any) -> None:
    small = write_rows(app.folder / "small", [[1] * 33] * 5, "ndarray:int32")
    extra = "".join(
        f"[mosaic_validation_dataloader.dataset.streams.{name}]\nlocal = '{small}'\n"
        for name in ("v", "w")
    )
    app.config(extra=extra)
    code, _, lines = outcome(
        *("--mosaic_dataloader.dataset.streams.words.local", str(small)),
        *("--nproc-per-node", "3"),
        *("--validation.enable", "--validation.seq_len", "64", "--validation.steps", "1"),
    )
    assert (code, len(lines)) == (2, 3), lines
    assert "an epoch has 5 samples, fewer than one global batch of 6" in lines[1]
    assert "validation.seq_len 64 exceeds training.seq_len 32" in lines[0]
    assert "validation.steps 1 is too few for a batch of each of the 2 streams" in lines[2]


def test_tokens_of_a_row_by_the_index_alone(tmp_path: Path) -> None:
    """For every way to store them; a text column tells nothing."""
    for number, (encoding, length) in enumerate(
        [("ndarray:int32", 257), ("ndarray:uint16:129", 129), ("bytes", 300), ("ndarray:int64", 65)]
    ):
        rows = [[number] * length] * 200
        folder = write_rows(tmp_path / str(number), rows, encoding, size_limit=1 << 16)
        dataset = StreamingTextDataset(seq_len=128, local=str(folder), token_encoding_type="uint16")
        tokens = tokens_per_row(dataset.streams[0])
        assert tokens == pytest.approx(length, rel=0.03)
        lines = row_lengths(dataset)
        told = " ".join(lines)
        assert ("never trained on" in told) == (length > 129), told
        assert ("padding" in told) == (length < 128), told
        assert len(lines) == (length != 129)


@given(
    st.integers(1, 24),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 6),
)
def test_shards_read_is_what_the_ranks_read(
    canonical: int, machines: int, ranks: int, local: int
) -> None:
    """The figure of the warning, against the loader's own assignment over a whole period."""
    world = machines * ranks
    batch = world * local
    nodes = node_of(np.arange(batch * canonical), batch * canonical, canonical)
    nodes = nodes.reshape(canonical, batch)
    pairs = set()
    for rank in range(world):
        rows = rows_of_rank(nodes, canonical, rank, world)
        found = np.unique(np.take_along_axis(nodes, rows, axis=1))
        pairs |= {(int(node), rank // ranks) for node in found}
    assert shards_read(canonical, machines, batch) == len(pairs) / canonical


def test_locality_is_warned_of_with_its_cost(app: Any) -> None:
    def warnings(batch_size: int, nodes: int, **options: Any) -> list[str]:
        dataset = StreamingTextDataset(seq_len=32, local=str(app.data / "data"), **options)
        loader = MosaicParallelAwareDataloader(
            dataset, dp_rank=0, dp_world_size=10, batch_size=batch_size, num_nodes=nodes
        )
        return machines_per_shard(loader)

    assert warnings(3, 2) == []
    assert warnings(3, 1, num_canonical_nodes=3) == []
    assert warnings(3, 2, num_canonical_nodes=8) == []
    (line,) = warnings(3, 2, num_canonical_nodes=3)
    assert "1.33 machines" in line
    assert "3 canonical nodes do not divide by 2 machines" in line
    (line,) = warnings(3, 2, num_canonical_nodes=1)
    assert "read by 2 machines" in line


MOUNTS = """\
22 1 253:0 / / rw - ext4 /dev/vda rw
30 22 0:40 / /mnt/with\\040space rw shared:1 - nfs4 server:/x rw
31 30 0:41 / /mnt/with\\040space/local rw - xfs /dev/vdb rw
32 22 0:42 / /mnt/s3 rw - fuse.s3fs s3fs rw
33 22 0:43 / /mnt/over rw - ext4 /dev/vdc rw
34 33 0:44 / /mnt/over rw - lustre mds:/fs rw
"""


@pytest.mark.parametrize(
    ("directory", "kind", "network"),
    [
        ("/data/x", "ext4", False),
        ("/mnt/with space/a/b", "nfs4", True),
        ("/mnt/with space", "nfs4", True),
        ("/mnt/with space/local/b", "xfs", False),
        ("/mnt/with spaces", "ext4", False),
        ("/mnt/s3/x", "fuse.s3fs", True),
        ("/mnt/over/x", "lustre", True),
    ],
)
def test_file_systems(
    directory: str, kind: str, network: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(filesystems, "_MOUNTS", tmp_path / "mountinfo")
    assert filesystems.filesystem_type(directory) == kind
    assert filesystems.network_filesystem(directory) == (kind if network else None)
    monkeypatch.setattr(filesystems, "_MOUNTS", tmp_path / "none")
    assert filesystems.filesystem_type(directory) is None


def test_caches(app: Any, outcome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remote data: cached where it can be written, on a disk of the machine, with room for it."""
    remote = ("--mosaic_dataloader.dataset.streams.words.remote", str(app.data / "data"))
    local = ("--mosaic_dataloader.dataset.streams.words.local", str(app.folder / "cache"))
    app.config()
    code, out, errors = outcome(*remote, *local)
    assert (code, errors) == (0, [])
    assert "all is well" in out

    mounts = MOUNTS + f"35 22 0:45 / {app.folder} rw - nfs server:/y rw\n"
    (app.folder / "mountinfo").write_text(mounts)
    monkeypatch.setattr(filesystems, "_MOUNTS", app.folder / "mountinfo")
    usage = SimpleNamespace(free=1000, total=10**9, used=0)
    monkeypatch.setattr(caches.shutil, "disk_usage", lambda _: usage)
    fresh = (local[0], str(app.folder / "fresh"))
    code, out, errors = outcome(*remote, *fresh, "--checkpoint.no-enable")
    assert (code, errors) == (0, [])
    warnings = [line for line in out.splitlines() if "WARNING" in line]
    assert len(warnings) == 2, out
    assert 'the cache of stream "words", ' in warnings[0]
    assert "network file system (nfs): each shard" in warnings[0]
    assert "GB (its share of the data): the disk will be full" in warnings[1]
    assert "2 warnings" in out

    blocked = app.folder / "file"
    blocked.write_text("")
    cache_dir = ("--mosaic_dataloader.dataset.cache_dir", str(blocked / "sub"))
    code, _, errors = outcome(*remote, *local, *cache_dir)
    assert (code, len(errors)) == (2, 1), errors
    assert "mosaic_dataloader.dataset.cache_dir: cannot write to" in errors[0]
    gone = ("--mosaic_dataloader.dataset.streams.words.remote", str(app.folder / "away"))
    code, _, errors = outcome(*gone, *local[:1], str(app.folder / "other"))
    assert (code, len(errors)) == (2, 1), errors
    assert "away" in errors[0]


def test_every_field_of_the_configuration_survives_one_stream_alone(app: Any) -> None:
    """`dataclasses.replace` works on a merged configuration, too."""
    from mosaic_config import MosaicConfigManager
    from mosaic_train.checks.datasets import _each_stream_alone

    path = app.config(extra="[mosaic_dataloader.dataset.streams.more]\nlocal = 'x'\nrepeat = 2.0\n")
    config = MosaicConfigManager().parse_args(["--config-path", str(path)])
    alone = list(_each_stream_alone(config, "mosaic_dataloader"))
    assert [list(each.mosaic_dataloader.dataset.streams) for each in alone] == [["words"], ["more"]]
    assert alone[1].mosaic_dataloader.dataset.streams["more"].repeat is None
    assert config.mosaic_dataloader.dataset.streams["more"].repeat == 2.0
    assert alone[0].training is config.training
    assert dataclasses.is_dataclass(alone[0])


def test_a_checkpoint_folder_of_each_models_own(app: Any, outcome: Any) -> None:
    """So that the first-run configuration can change its model and nothing else."""
    folder = "out/{model.name}-{model.flavor}/x"
    config = SimpleNamespace(
        checkpoint=SimpleNamespace(folder=folder),
        model=SimpleNamespace(name="qwen3", flavor="debugmodel"),
        job=SimpleNamespace(description="{model.name} {model.flavor} on {x}"),
    )
    cli.name_checkpoint_folder(config)  # type: ignore[arg-type]
    assert config.checkpoint.folder == "out/qwen3-debugmodel/x"
    assert config.job.description == "qwen3 debugmodel on {x}"
    app.config()
    code, _, errors = outcome("--checkpoint.folder", "{model.size}")
    assert (code, len(errors)) == (2, 1)
    assert "{model.size} is not known, only {model.name}, {model.flavor}" in errors[0]
    debug = (Path(cli.__file__).parents[1] / "configs" / "debug.toml").read_text()
    assert "{model.name}-{model.flavor}" in debug


def test_the_end_of_a_run_names_what_was_kept_and_how_to_resume(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from torch.distributed.checkpoint import save

    from mosaic_config import MosaicConfigManager
    from mosaic_train.ending import end_of_run

    path, folder = str(app.config()), app.folder / "out" / "checkpoint"
    monkeypatch.setenv("UV", "uv")
    monkeypatch.setattr("sys.argv", ["apps/train"])

    def ended(*arguments: str) -> list[str]:
        argv = ["--config-path", path, *arguments]
        return end_of_run(MosaicConfigManager().parse_args(argv), argv)

    def write(step: int, *keys: str) -> None:
        state = {key: torch.zeros(1) for key in ("norm.weight", *keys)}
        save(state, checkpoint_id=str(folder / f"step-{step}"), no_dist=True)

    assert ended("--checkpoint.no-enable") == ["no checkpoint was kept: checkpoint.enable = false"]
    first = "no checkpoint was kept: the first one is saved after step"
    assert ended() == [f"{first} 2"]
    assert ended("--training.steps", "9", "--checkpoint.interval", "4") == [f"{first} 4"]

    full = ("optimizer.x", "lr_scheduler.x", "train_state", "dataloader.mosaic")
    write(1, *full)
    kept = f"the last checkpoint is that of step 1 of 2: {folder / 'step-1'}"
    command = f"uv run apps/train --config-path {path}"
    assert ended() == [kept, f"resume with: {command}"]
    excluded = ("--checkpoint.exclude_from_loading", "dataloader", "--checkpoint.load_step=1")
    lines = ended(*excluded, "--job.description", "two words")
    resumes = f"{command} --job.description 'two words' --checkpoint.load_step -1"
    assert lines == [kept, f"resume with: {resumes}"]
    config = MosaicConfigManager().parse_args(shlex.split(resumes)[3:])
    assert (config.checkpoint.load_step, config.job.description) == (-1, "two words")

    write(2, *full)
    assert ended()[1] == f"continue training with: {command} --training.steps 4"
    config = MosaicConfigManager().parse_args(["--config-path", path])
    assert end_of_run(config, None)[1] == (
        "continue training with: the same command and --training.steps 4"
    )
    write(3)
    assert "it holds the weights alone" in ended("--training.steps", "3")[1]


def test_another_global_batch_than_before_is_told(app: Any) -> None:
    """By the last two checkpoints; what is set, or comes out the same, is not a word worth."""
    from torch.distributed.checkpoint import save

    from mosaic_config import MosaicConfigManager
    from mosaic_dataloader import build_mosaic_dataloader
    from mosaic_train.checks.resume import resume_from_checkpoint

    def config(*options: str) -> Any:
        path = str(app.folder / "config.toml")
        return MosaicConfigManager().parse_args(["--config-path", path, *options])

    def loader(ranks: int, *options: str) -> Any:
        return build_mosaic_dataloader(
            dp_world_size=ranks, dp_rank=0, tokenizer=None, job_config=config(*options)
        )

    def warnings(ranks: int, *options: str) -> list[str]:
        report = Report()
        found = resume_from_checkpoint(config(*options), loader(ranks, *options), report)
        assert found[1] == last
        return report.warnings

    def run(steps: int, ranks: int, state: dict[str, Any], *options: str) -> dict[str, Any]:
        running = loader(ranks, *options)
        running.load_state_dict(state)
        batches = iter(running)
        for _ in range(steps):
            next(batches)
        state = running.state_dict()
        running.close()
        train_state = {"step": last}
        folder = app.folder / "out" / "checkpoint" / f"step-{last}"
        save(
            {"dataloader": state, "train_state": train_state},
            checkpoint_id=str(folder),
            no_dist=True,
        )
        return dict(state)

    app.config()
    last = 2
    state = run(2, 4, {})
    assert warnings(4) == []
    assert warnings(2, "--training.global_batch_size", "8") == []
    assert warnings(2, "--training.local_batch_size", "4") == []
    (line,) = warnings(2)
    assert "trained on 8 rows in a step and would now train on 4 (2 data-parallel" in line
    assert "set training.global_batch_size = 8 to keep it" in line
    (line,) = warnings(8)
    assert "= 8 and training.local_batch_size to 1, or to a divisor" in line
    (line,) = warnings(3)
    assert "start a number of data-parallel ranks that divides 8" in line
    # Continued by half the ranks: only what came last counts, and not what was left out.
    last = 7
    state = run(5, 2, state, "--mosaic_dataloader.dataset.skip", "20:25")
    assert warnings(2) == []
    (line,) = warnings(4)
    assert "trained on 4 rows in a step and would now train on 8" in line
    last = 9
    run(2, 2, state, "--mosaic_dataloader.dataset.skip", "45:50")
    assert warnings(2) == []


def test_first_rows_outside_the_vocabulary_are_named_and_nothing_else_said_of_them(
    app: Any, outcome: Any
) -> None:
    """For every stream; ids read as a wrong type look like rows that are too short."""
    app.config()
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 390, 36).tolist() for _ in range(200)]
    as_bytes = write_rows(app.folder / "bytes", rows, "bytes")
    large = write_rows(app.folder / "large", [[5] * 33] * 9 + [[7] * 32 + [2048]], "ndarray:int32")
    code, out, lines = outcome(
        *("--mosaic_dataloader.dataset.streams.words.local", str(as_bytes)),
        *("--validation.enable", "--validation.seq_len", "32"),
        *("--mosaic_validation_dataloader.dataset.streams.held.local", str(large)),
    )
    assert (code, len(lines)) == (2, 2), lines
    assert 'stream "words": token id ' in lines[0]
    assert "token_encoding_type = 'int64' is not what the tokens were written in" in lines[0]
    assert "set 'uint16'" in lines[0]
    assert 'stream "held", shard shard.00000.mds, sample 9 of the shard' in lines[1]
    assert "token id 2048 is outside the model's vocabulary of 2,048" in lines[1]
    assert "padding" not in out
    code, out, lines = outcome(
        *("--mosaic_dataloader.dataset.streams.words.local", str(as_bytes)),
        *("--mosaic_dataloader.dataset.token_encoding_type", "uint16"),
    )
    assert (code, lines) == (0, [])


def test_loaders_of_the_spec_know_what_the_model_embeds(app: Any) -> None:
    from torchtitan.protocols.train_spec import get_train_spec

    from mosaic_config import MosaicConfigManager
    from mosaic_train.spec import register_spec

    held = f"[mosaic_validation_dataloader.dataset.streams.held]\nlocal = '{app.data}/data'\n"
    path = str(app.config(extra=held))
    config = MosaicConfigManager().parse_args(["--config-path", path])
    spec = get_train_spec(register_spec(config))
    validation = spec.build_validator_fn.keywords["build_validation_dataloader_fn"]
    for build in (spec.build_dataloader_fn, validation):
        loader = build(dp_world_size=1, dp_rank=0, tokenizer=None, job_config=config)
        assert loader.dataset.vocab_size == spec.model_args["debugmodel"].vocab_size == 2048
        loader.dataset.close()


def test_loaders_know_the_vocabulary_of_a_model_of_hugging_faces(app: Any) -> None:
    """Its flavor does not say: only the section of its own does."""
    from torchtitan.protocols.train_spec import get_train_spec

    from mosaic_config import MosaicConfigManager
    from mosaic_train.spec import register_spec

    backend = "transformers_modeling_backend"
    size = {"vocab_size": 777, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (app.folder / "config.json").write_text(json.dumps(size))
    options = ["--config-path", str(app.config()), "--model.name", backend]
    options += ["--job.custom_config_module", f"torchtitan.experiments.{backend}.job_config"]
    config = MosaicConfigManager().parse_args(
        [*options, "--hf_transformers.model", str(app.folder)]
    )
    # A rank registers under the name that the first registration returned.
    for _ in range(2):
        config.model.name = register_spec(config)
        build = get_train_spec(config.model.name).build_dataloader_fn
        loader = build(dp_world_size=1, dp_rank=0, tokenizer=None, job_config=config)
        assert loader.dataset.vocab_size == 777
        loader.dataset.close()


def test_a_distant_first_shard_is_fetched_only_if_that_is_quick(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(app.folder / "rows", [[5] * 33] * 9 + [[9000] * 33], "ndarray:int32")

    def looked_at(cache: str, most: int) -> tuple[int, bool]:
        monkeypatch.setattr(vocabulary, "_FETCHED_BYTES", most)
        local = app.folder / cache
        dataset = StreamingTextDataset(seq_len=32, remote=str(rows), local=str(local))
        lines = vocabulary.first_samples(dataset, vocab_size=2048)
        dataset.close()
        return len(lines), (local / "shard.00000.mds").exists()

    assert looked_at("far", 100) == (0, False)
    assert looked_at("near", 1 << 20) == (1, True)
    # What is there already costs nothing.
    assert looked_at("near", 0) == (1, True)
