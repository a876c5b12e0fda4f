"""A user's mistake is one line on stderr and exit code 2, before any rank starts."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from mosaic_train import cli


def write_foreign_column(directory: Path) -> None:
    with MDSWriter(columns={"label": "ndarray:int32"}, out=str(directory)) as writer:
        for _ in range(8):
            writer.write({"label": np.arange(33, dtype=np.int32)})


def pretend_machine(monkeypatch: pytest.MonkeyPatch, *, gpus: bool) -> None:
    """Check as on a machine with GPUs, or without, that has as many ranks as are asked for."""
    monkeypatch.setattr("mosaic_trainspec.checks.machine.no_accelerator", lambda: not gpus)
    monkeypatch.setattr("mosaic_train.launch.ranks_on_this_machine", lambda wanted: wanted or 1)


def outcome(app: Any, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the launcher, run in this process: importing torch takes seconds."""
    capfd.readouterr()
    code = cli.main(["--config-path", str(app.folder / "config.toml"), *arguments])
    return code, capfd.readouterr().err


def assert_one_line(err: str, expected: str) -> None:
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert re.search(expected, lines[0]), lines[0]


@pytest.fixture(autouse=True)
def no_rank_may_start(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def refuse(*_: object) -> int:
        pytest.fail("a rank would have been started")

    monkeypatch.setattr("mosaic_train.launch.launch", refuse)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_issue_cases_as_a_command(app: Any) -> None:
    """The whole command for two of the cases; the same two and all others are below."""
    app.config(("shuffle = true", "shufle = true"))
    result = app.forked("--config-path", app.folder / "config.toml")
    assert result.returncode == 2
    assert_one_line(result.stderr, "shufle.*shuffle")

    config = app.config((f"{app.data}/data", f"{app.data}/nowhere"))
    result = app.forked("--config-path", config, "--nproc-per-node", "2")
    assert result.returncode == 2
    assert_one_line(result.stderr, "nowhere")


def test_configuration(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    app.config(("shuffle = true", "shufle = true"))
    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(err, r"config\.toml.*shufle.*did you mean.*shuffle")

    app.config((f'local = "{app.data}/data"', "proportion = 1.0"))
    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(err, "words.*remote.*local")

    assert cli.main([]) == 2
    assert_one_line(capfd.readouterr().err, "--config-path")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--mosaic_dataloader.dataset.max_seq_len", "16"], "max_seq_len.*16.*seq_len.*32"),
        (["--model.name", "lama3"], "did you mean 'llama3'"),
        (["--model.name", "flux"], "not a text model"),
        (["--model.name", "vlm"], "not a text model"),
        (["--model.name", "autoparallel.llama3"], "the Python module 'autoparallel'"),
        (["--model.name", "autoparallel.deepseek_v3"], "the Python module 'autoparallel'"),
        (["--model.name", "autoparallel.local_map_deepseek_v3"], "module 'autoparallel'"),
        (["--model.name", "transformers_modeling_backend"], "custom_config_module = '.*job_config"),
        (["--model.flavor", "debugmodle"], "debugmodle.*did you mean 'debugmodel'.*8B"),
        (["--nproc-per-node", "0"], "number of processes"),
        (["--experimental.custom_import", "no_such_module"], "custom_import.*no_such_module"),
    ],
)
def test_wrong_options(
    app: Any, capfd: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    app.config()
    code, err = outcome(app, capfd, *arguments)
    assert code == 2
    assert_one_line(err, expected)


TENSOR = ["--parallelism.tensor_parallel_degree", "3"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--nproc-per-node", "2", *TENSOR], "tensor_parallel 3.*2 rank"),
        (["--nproc-per-node", "3", *TENSOR, "--training.seq_len", "30"], "3 .*16 attention heads"),
        (["--training.seq_len", "31", "--mosaic_dataloader.dataset.shuffle_seed", "1"], "31.*30"),
        (["--nproc-per-node", "2", "--training.global_batch_size", "6"], "6 .*2 \\* 2 .*of 4"),
        (["--parallelism.data_parallel_shard_degree", "2"], "shard 2.*1 rank"),
        (
            [
                "--nproc-per-node",
                "2",
                "--parallelism.pipeline_parallel_degree",
                "2",
                "--parallelism.pipeline_parallel_microbatch_size",
                "4",
            ],
            "microbatch_size 4",
        ),
    ],
)
def test_layout(
    app: Any, capfd: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    app.config()
    code, err = outcome(app, capfd, *arguments)
    assert code == 2
    assert_one_line(err, expected)


def test_values_that_only_a_rank_would_refuse(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kind one, through the whole launcher; `test_app_options` has them all."""
    monkeypatch.setattr("mosaic_train.launch.ranks_on_this_machine", lambda wanted: wanted or 1)
    find = importlib.util.find_spec
    missing = {"wandb": None}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: missing[name] if name in missing else find(name)
    )
    app.config()
    blocked = app.folder / "file"
    blocked.write_text("")
    for arguments, expected in [
        (["--optimizer.name", "AdmW"], 'config.toml: optimizer.name must be "Adam" or "AdamW"'),
        (["--checkpoint.keep_latest_k", "1"], "checkpoint.keep_latest_k must be 0 .* got 1"),
        (["--metrics.enable_wandb"], "wandb is not installed: .*uv sync --extra wandb"),
        (
            ["--training.steps", "200", "--lr_scheduler.decay_ratio", "0"],
            "goes beyond lr_scheduler.total_steps 100, after which there is no learning rate",
        ),
        (["--job.dump_folder", str(blocked)], "dump_folder .*file: it cannot be made"),
        (["--checkpoint.load_step", "3"], "load_step 3: there is no checkpoint folder"),
        (
            [
                *("--model.name", "qwen3", "--nproc-per-node", "2"),
                *("--parallelism.pipeline_parallel_degree", "2"),
            ],
            "qwen3 debugmodel cannot be cut into stages",
        ),
    ]:
        code, err = outcome(app, capfd, *arguments)
        assert code == 2, arguments
        assert_one_line(err, expected)


def test_one_mistake_of_several_streams_is_one_line(
    app: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """An option that all share is told of once, and each stream's own mistake for itself."""
    more = "[mosaic_dataloader.dataset.streams.{0}]\nlocal = '{1}/{0}'\nremote = '{2}'\n"
    names = ("one", "two")
    app.config(extra="".join(more.format(n, app.folder, app.data / "data") for n in names))
    code, err = outcome(app, capfd, "--mosaic_dataloader.dataset.cache_limit", "10")
    assert code == 2
    assert_one_line(err, "cache_limit = 10 is 10 bytes, too few for four of the largest shards")
    # Stages name streams, which are not missing for being looked at one by one.
    code, err = outcome(
        app,
        capfd,
        *("--mosaic_dataloader.dataset.stages", "[{weights = {words = 1, one = 1}}]"),
        *("--mosaic_dataloader.dataset.on_data_change", "new_stage"),
        *("--mosaic_dataloader.dataset.streams.two.split", "none"),
    )
    assert code == 2
    assert_one_line(err, 'stream "two"')

    texts = app.folder / "raw"
    with MDSWriter(columns={"text": "str"}, out=str(texts)) as writer:
        for _ in range(8):
            writer.write({"text": "some words"})
    app.config(
        (f'local = "{app.data}/data"', f'local = "{texts}"'),
        (f'name = "{app.data}/tokenizer"', ""),
        extra="".join(
            f"[{section}.dataset.streams.{n}]\nlocal = '{texts}'\n"
            for section, own in [
                ("mosaic_dataloader", names),
                ("mosaic_validation_dataloader", ("words", *names)),
            ]
            for n in own
        ),
    )
    code, err = outcome(app, capfd, "--validation.enable", "--validation.seq_len", "32")
    assert code == 2
    assert_one_line(
        err, r'stream "words" holds text; .*mosaic_tokenizer.name\) .*for stream "one", "two"\)'
    )


SINGLE = ["--training.mixed_precision_param", "float32"]
GPT_OSS = ["--model.name", "gpt_oss"]
REPLICAS = ["--nproc-per-node", "2", "--parallelism.data_parallel_replicate_degree", "2"]
TENSOR_2 = ["--nproc-per-node", "2", "--parallelism.tensor_parallel_degree", "2"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.flavor", "debugmodel_varlen_attn", *SINGLE], 'no kernel for float32.*"bfloat16'),
        ([*GPT_OSS, *SINGLE], 'layers in bfloat16, which need autocast.*= "bfloat16"'),
        ([*GPT_OSS, *SINGLE, *REPLICAS], "layers in bfloat16, which need autocast"),
        ([*GPT_OSS, *TENSOR_2], "which only FSDP converts to one format under tensor"),
    ],
)
def test_number_formats_that_a_model_cannot_take(
    app: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    """As on a machine with GPUs, where these fail deep inside otherwise."""
    pretend_machine(monkeypatch, gpus=True)
    monkeypatch.setattr(
        "mosaic_trainspec.checks.machine._FLEX_BLOCK", 32
    )  # the rows here are short
    app.config()
    code, err = outcome(app, capfd, *arguments)
    assert code == 2
    assert_one_line(err, expected)


PACKING = "options that pack"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.flavor", "debugmodel_flex_attn"], "flex attention.*flavor without.*debugmodel,"),
        (["--model.flavor", "debugmodel_varlen_attn"], "varlen attention"),
        (["--model.name", "compiler_toolkit.llama3"], "CUDA graphs.*the same model without"),
        (
            ["--nproc-per-node", "2", "--parallelism.expert_parallel_degree", "2"],
            "expert_parallel_degree = 1",
        ),
        (
            ["--model.flavor", "debugmodel_flex_attn", PACKING],
            "flex attention.*no backward pass on CPU",
        ),
        (["--profiling.enable_profiling"], "profil"),
        (
            ["--nproc-per-node", "2", "--parallelism.context_parallel_degree", "2"],
            "context_parallel_degree = 1",
        ),
    ],
)
def test_what_needs_a_gpu(
    app: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    pretend_machine(monkeypatch, gpus=False)
    app.config()
    if PACKING in arguments:
        arguments = [*arguments[:-1], *app.packing()]
    code, err = outcome(app, capfd, *arguments)
    assert code == 2
    assert_one_line(err, expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.name", "gpt_oss", "--training.seq_len", "96"], r"training\.seq_len 96.*128 or"),
        (["--model.name", "compiler_toolkit.llama3"], "tensor_parallel_degree to 2 or more"),
    ],
)
def test_what_a_gpu_cannot_run(
    app: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    expected: str,
) -> None:
    pretend_machine(monkeypatch, gpus=True)
    app.config()
    more = ["--training.mixed_precision_param", "bfloat16"]
    code, err = outcome(app, capfd, *arguments, *more)
    assert code == 2
    assert_one_line(err, expected)


def test_attention_between_documents(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a mask of documents is made of, as a machine with a GPU would check it."""
    monkeypatch.setattr("mosaic_trainspec.checks.machine.no_accelerator", lambda: False)
    tokenizer = app.folder / "no-eos"
    shutil.copytree(app.data / "tokenizer", tokenizer)
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    (tokenizer / "special_tokens_map.json").unlink(missing_ok=True)
    flex = ["--model.flavor", "debugmodel_flex_attn", *app.packing()]
    app.config()
    code, err = outcome(app, capfd, *flex, "--mosaic_tokenizer.name", str(tokenizer))
    assert code == 2
    assert_one_line(err, "apart by the EOS token.*no-eos.*has none.*kwargs.eos_token")
    app.config((f'name = "{app.data}/tokenizer"', ""))
    code, err = outcome(app, capfd, *flex)
    assert code == 2
    assert_one_line(err, "masks.*set mosaic_tokenizer.name")


def test_a_tokenizers_code_is_refused_and_nothing_asked(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = app.folder / "own"
    shutil.copytree(app.data / "tokenizer", own)
    ran = app.folder / "RAN"
    (own / "mine.py").write_text(f"open({str(ran)!r}, 'w')")
    code_in = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    (own / "tokenizer_config.json").write_text(json.dumps(code_in))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("stdin was asked"))
    app.config()
    code, err = outcome(app, capfd, "--mosaic_tokenizer.name", str(own))
    assert code == 2
    assert_one_line(err, "set trust_remote_code = true")
    assert not ran.exists()


def test_tokenizer_and_data(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    from mosaic_prepare import PrepareOptions, prepare

    large = app.folder / "large"
    texts = app.folder / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(" ".join(f"{i:x}{i * i:x}" for i in range(6000)))
    prepare(
        PrepareOptions(
            input=str(texts / "*"),
            output=large / "data",
            train_tokenizer=large / "tokenizer",
            vocab_size=3000,
            seq_len=32,
        )
    )
    write_foreign_column(app.folder / "foreign")
    (app.folder / "empty").mkdir()
    stream = "--mosaic_dataloader.dataset.streams.words.local"
    app.config()
    for arguments, expected in [
        (
            ["--mosaic_tokenizer.name", str(large / "tokenizer"), stream, str(large / "data")],
            "3000.*embeds only 2048.*8B",
        ),
        (
            ["--mosaic_tokenizer.name", str(large / "tokenizer"), "--model.flavor", "8B"],
            "prepared with tokenizer.*280 entries.*3,000 entries",
        ),
        (["--mosaic_tokenizer.name", str(app.folder / "none")], "tokenizer.*none"),
        ([stream, str(app.folder / "nowhere")], "nowhere"),
        ([stream, str(app.folder / "empty")], "empty.*index.json|index.json.*empty"),
        ([stream, str(app.folder / "foreign")], "label.*tokens|tokens.*label"),
        (["--mosaic_prepare.output", str(app.folder / "out")], "mosaic_prepare.*input"),
        (["--mosaic_prepare.train_tokenizer", "z"], "mosaic_prepare.*no input"),
        (
            [
                "--mosaic_prepare.input",
                "x",
                "--mosaic_prepare.output",
                "y",
                "--mosaic_prepare.train_tokenizer",
                "z",
            ],
            "same directory",
        ),
        (
            [
                "--mosaic_prepare.input",
                "no/such/*.txt",
                "--mosaic_prepare.output",
                str(app.folder / "prepared"),
            ],
            "matches no file",
        ),
        (["--validation.enable", "--validation.seq_len", "32"], "mosaic_validation_dataloader"),
    ]:
        code, err = outcome(app, capfd, *arguments)
        assert code == 2, arguments
        assert_one_line(err, expected)


def weights(name: str = "llama3") -> dict[str, Any]:
    """As many and as large as the model's own, of one byte each."""
    import torch

    from mosaic_config import MosaicJobConfig
    from mosaic_trainspec.checks.model import build_meta_model, find_model

    config = MosaicJobConfig()
    config.model.name, config.model.flavor = name, "debugmodel"
    sketch = build_meta_model(config, find_model(config))
    assert sketch is not None
    return {key: torch.zeros(shape, dtype=torch.int8) for key, shape in sketch.shapes.items()}


def write_checkpoint(folder: Path, keys: list[str], **entries: Any) -> None:
    import torch
    from torch.distributed.checkpoint import save

    state = {key: torch.zeros(1) for key in keys} | entries
    save(state, checkpoint_id=str(folder), no_dist=True)


def test_checkpoints(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = app.folder / "out" / "checkpoint"
    model = weights()
    full = ["optimizer.state.x", "lr_scheduler.last_epoch", "train_state"]
    write_checkpoint(folder / "step-2", [*full, "dataloader.dp_rank_0"], **model)
    app.config()

    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(err, "step-2 was written with another.*exclude_from_loading dataloader")

    write_checkpoint(folder / "step-3", full, **model)
    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(err, "step-3 holds no position of.*exclude_from_loading dataloader")

    write_checkpoint(folder / "step-4", [], **model)
    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(err, "step-4 holds the model only.*initial_load_path.*last_save_model_only")
    code, err = outcome(app, capfd, "--checkpoint.load_step", "8")
    assert code == 2
    assert_one_line(err, "step-8.*2, 3, 4")
    code, err = outcome(app, capfd, "--checkpoint.exclude_from_loading", "dataloder")
    assert code == 2
    assert_one_line(err, "dataloder is not a part")
    code, err = outcome(
        app, capfd, "--checkpoint.folder", "new", "--checkpoint.initial_load_path", "no/dir"
    )
    assert code == 2
    assert_one_line(err, "initial_load_path 'no/dir'")

    packing = app.packing()
    write_checkpoint(folder / "step-5", [*full, "dataloader.mosaic"], **model)
    code, err = outcome(app, capfd, *packing)
    assert code == 2
    assert_one_line(err, "step-5 was written without packing.*exclude_from_loading dataloader")
    lanes = [f"dataloader.lane_{lane:04d}" for lane in range(12)]
    write_checkpoint(folder / "step-6", [*full, "dataloader.mosaic", *lanes], **model)
    code, err = outcome(app, capfd, *packing, "--mosaic_dataloader.dataset.packing_lanes", "24")
    assert code == 2
    assert_one_line(err, "packing_lanes is 24.*step-6 has 12")
    # Left open, the lanes are the checkpoint's.
    code, err = outcome(app, capfd, *packing, "--nproc-per-node", "5")
    assert code == 2
    assert_one_line(err, "5 data-parallel ranks do not divide 12 packing lanes")

    (folder / "step-6" / ".metadata").write_bytes(b"cut off")
    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(err, "step-6 cannot be read")


def test_checkpoints_that_hold_something_else(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    folder = app.folder / "out" / "checkpoint"
    app.config()
    new = ["--checkpoint.folder", "new", "--checkpoint.initial_load_path"]
    model_only = ["--checkpoint.initial_load_model_only"]
    in_hf = ["--checkpoint.initial_load_in_hf"]
    weights_in_hf = app.folder / "hf"
    weights_in_hf.mkdir()
    (weights_in_hf / "model-00001-of-00001.safetensors").write_text("")
    full = ["optimizer.x", "lr_scheduler.x", "train_state", "dataloader.mosaic"]
    for arguments, expected in [
        ([*new, str(app.folder)], r"holds no checkpoint: name the directory of one step"),
        ([*new, str(weights_in_hf)], "Hugging Face's format: set checkpoint.initial_load_in_hf"),
        ([*new, str(app.data), *in_hf], r"holds no \*.safetensors"),
        ([*in_hf, *model_only, "--model.hf_assets_path", "no/where"], "hf_assets_path 'no/where'"),
    ]:
        code, err = outcome(app, capfd, *arguments)
        assert code == 2, arguments
        assert_one_line(err, expected)

    write_checkpoint(folder / "step-40", full, **weights())
    code, err = outcome(app, capfd, *new, str(folder))
    assert code == 2
    assert_one_line(err, r"holds no checkpoint: name one of those in it, such as .*/step-40")

    # What `last_save_in_hf` writes is the latest one, for TorchTitan too.
    last = folder / "step-80"
    last.mkdir()
    (last / "model.safetensors.index.json").write_text("{}")
    code, err = outcome(app, capfd)
    assert code == 2
    assert_one_line(
        err, "step-80 holds the model only, in Hugging Face's format.*--checkpoint.load_step 40, or"
    )
    (folder / "step-60").mkdir()
    code, err = outcome(app, capfd, "--checkpoint.load_step", "60")
    assert code == 2
    assert_one_line(err, "step-60 is incomplete: .*--checkpoint.load_step 40")


def test_nothing_left_to_train(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The first command a second time; with more steps, those that are left are counted."""
    from mosaic_config import MosaicConfigManager
    from mosaic_dataloader import build_mosaic_dataloader, build_mosaic_tokenizer
    from mosaic_train.setup import prepare_and_check

    path = str(app.config())

    def config(*arguments: str) -> Any:
        return MosaicConfigManager().parse_args(["--config-path", path, *arguments])

    logged: list[str] = []

    def tell(text: str, *rest: object) -> None:
        logged.append(text % rest)

    for name, options in (("rows", []), ("packed", app.packing())):
        arguments = [*options, "--checkpoint.folder", name]
        made = config(*arguments)
        loader = build_mosaic_dataloader(
            dp_world_size=1, dp_rank=0, tokenizer=build_mosaic_tokenizer(made), job_config=made
        )
        batches = iter(loader)
        for _ in range(3):
            next(batches)
        state = {"dataloader": loader.state_dict(), "train_state": {"step": 3}}
        loader.close()
        folder = app.folder / "out" / name / "step-3"
        write_checkpoint(folder, ["optimizer.x", "lr_scheduler.x"], **weights(), **state)
        for steps in ("3", "2"):
            code, err = outcome(app, capfd, *arguments, "--training.steps", steps)
            assert code == 2
            assert_one_line(
                err,
                f"nothing is left to train: .*step-3 is at step 3, and training.steps is {steps}",
            )
        # To load and not to train is asked for by name.
        prepare_and_check(
            config(*arguments, "--training.steps", "3", "--checkpoint.load_only"),
            world_size=1,
            ranks_here=1,
        )
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mosaic_train.setup.logger", SimpleNamespace(warning=tell, info=tell))
            prepare_and_check(
                config(*arguments, "--training.steps", "13"), world_size=1, ranks_here=1
            )
            assert re.search(
                r"resumes at .* 6 .*, 10 of 13 steps are left and train on 20 ", logged[-1]
            )
            assert "all is well" in logged[-1]
            # Data that begins again is a cost, and an order as good as new.
            patch.setattr("mosaic_dataloader.checks.machines_per_shard", lambda *_, **__: ["far"])
            prepare_and_check(
                config(
                    *(*arguments, "--training.steps", "13"),
                    *("--checkpoint.exclude_from_loading", "dataloader"),
                ),
                world_size=1,
                ranks_here=1,
            )
        assert "far" in logged
        (line,) = [line for line in logged if "resumes at step 3 of checkpoint" in line]
        assert "its data begins at the start, as in a new run" in line
        assert "all is well" not in logged[-1]
        logged.clear()


def test_what_can_be_continued_passes(app: Any) -> None:
    from mosaic_config import MosaicConfigManager
    from mosaic_train.checks.resume import check_position
    from mosaic_trainspec.checks.checkpoint import checkpoint_to_resume

    folder = app.folder / "out" / "checkpoint"
    path = app.config()

    def config(*arguments: str) -> Any:
        return MosaicConfigManager().parse_args(["--config-path", str(path), *arguments])

    assert checkpoint_to_resume(config()) is None
    full = ["w", "optimizer.a", "lr_scheduler.b", "train_state"]
    write_checkpoint(folder / "step-3", [*full, "dataloader.other"])
    write_checkpoint(folder / "step-5", [*full, "dataloader.mosaic"])
    (folder / "step-9").mkdir()  # killed while it was written
    assert checkpoint_to_resume(config()) == folder / "step-5"
    check_position(config())
    check_position(
        config("--checkpoint.load_step", "3", "--checkpoint.exclude_from_loading", "dataloader")
    )
    initial = ["--checkpoint.folder", "new", "--checkpoint.initial_load_path"]
    # The model alone is loaded from there, whatever else it holds.
    assert checkpoint_to_resume(config(*initial, str(folder / "step-3"))) is None


def test_a_checkpoint_of_another_model(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """In one line, whichever way it would be loaded, and not a word where it is not."""
    folder = app.folder / "out" / "checkpoint"
    full = ["optimizer.x", "lr_scheduler.x", "train_state", "dataloader.mosaic"]
    write_checkpoint(folder / "step-3", full, **weights("qwen3"))
    app.config()
    code, err = outcome(app, capfd, "--checkpoint.exclude_from_loading", "dataloader")
    assert code == 2
    assert_one_line(
        err, r"config\.toml: checkpoint .*step-3 holds another model than llama3 debugmodel.*folder"
    )
    initial = ["--checkpoint.folder", "new", "--checkpoint.initial_load_path"]
    code, err = outcome(app, capfd, *initial, str(folder / "step-3"))
    assert code == 2
    assert_one_line(err, "another model.*choose another checkpoint.initial_load_path")

    # A seed checkpoint holds the model only; the same names, with one of another shape.
    import torch

    changed = weights() | {"tok_embeddings.weight": torch.zeros((300, 256), dtype=torch.int8)}
    write_checkpoint(app.folder / "out" / "seed" / "step-0", [], **changed)
    code, err = outcome(app, capfd, "--checkpoint.folder", "seed")
    assert code == 2
    assert_one_line(err, r"tok_embeddings\.weight is 300x256 there and 2048x256 here\)")


def test_what_the_loader_would_refuse(app: Any, capfd: pytest.CaptureFixture[str]) -> None:
    from mosaic_config import MosaicConfigManager
    from mosaic_dataloader import build_mosaic_dataloader

    app.config()
    path = str(app.folder / "config.toml")
    config = MosaicConfigManager().parse_args(["--config-path", path])
    loader = build_mosaic_dataloader(dp_world_size=2, dp_rank=0, tokenizer=None, job_config=config)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = {"dataloader": loader.state_dict(), "train_state": {"step": 3}}
    loader.close()
    folder = app.folder / "out" / "checkpoint" / "step-3"
    write_checkpoint(folder, ["optimizer.x", "lr_scheduler.x"], **weights(), **state)
    code, err = outcome(app, capfd, "--training.seq_len", "16", "--nproc-per-node", "2")
    assert code == 2
    assert_one_line(err, r"config\.toml: the checkpoint does not fit.*seq_len was 32 and is now 16")
    code, err = outcome(app, capfd, "--mosaic_dataloader.dataset.shuffle_seed", "1")
    assert code == 2
    assert_one_line(err, "shuffle_seed was 9176 and is now 1")
    (folder / "__0_0.distcp").write_bytes(b"cut off")
    code, err = outcome(app, capfd, "--nproc-per-node", "2")
    assert code == 2
    assert_one_line(err, "step-3 cannot be read.*checkpoint.load_step")
