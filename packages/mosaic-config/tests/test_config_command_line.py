"""The spellings of options, and one line for each mistake in them."""

from typing import Any

import pytest

from mosaic_config import MosaicConfigManager

DATA = '[mosaic_dataloader.dataset]\nremote = "data"\n'
MIXTURE = """
[mosaic_dataloader.dataset.streams.code]
remote = "s3://bucket/code"
proportion = 0.7
[mosaic_dataloader.dataset.streams.my_text]
remote = "s3://bucket/text"
proportion = 0.3
[mosaic_tokenizer.kwargs]
model_max_length = 2048
padding_side = "left"
"""
DATASET = "--mosaic_dataloader.dataset"


@pytest.mark.parametrize("flag", ["config-path", "config_path", "job.config_file"])
@pytest.mark.parametrize("joined", [True, False])
def test_spellings_of_the_file(tmp_path: Any, flag: str, joined: bool) -> None:
    file = tmp_path / "a=b.toml"
    file.write_text(DATA)
    args = [f"--{flag}={file}"] if joined else [f"--{flag}", str(file)]
    config = MosaicConfigManager().parse_args(["--training.steps", "3", *args])
    assert (config.training.steps, config.job.config_file) == (3, str(file))


def test_arguments_default_to_the_process_s(monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["train", f"{DATASET}.remote", "x"])
    config = MosaicConfigManager().parse_args()
    assert config.mosaic_dataloader.dataset.remote == "x"
    assert config.job.config_file is None


def test_options_in_all_spellings(parse: Any) -> None:
    config = parse(
        MIXTURE + "[mosaic_dataloader.dataset]\nshuffle = true\nepoch_size = 9\n",
        "--mosaic-dataloader.num-workers=2",
        "--mosaic_dataloader.prefetch_factor",
        "4",
        "--mosaic_dataloader.persistent-workers",
        f"{DATASET}.no-shuffle",
        f"{DATASET}.epoch-size",
        "None",
        f"{DATASET}.cache_limit",
        "10gb",
        "--model.converters",
        "a,b",
        "--optimizer.lr",
        "1",
    )
    loader = config.mosaic_dataloader
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (2, 4, True)
    assert (loader.dataset.shuffle, loader.dataset.epoch_size) == (False, None)
    assert loader.dataset.cache_limit == "10gb"
    assert config.model.converters == ["a", "b"]
    assert config.optimizer.lr == 1.0


def test_values_that_look_like_options_and_bounds_that_an_option_repairs(parse: Any) -> None:
    config = parse(
        DATA + "predownload = -1\ndownload_timeout = 0\n",
        "--job.description=--fast",
        f"{DATASET}.predownload",
        "5",
        f"{DATASET}.download_timeout",
        "7",
        "--mosaic_validation_dataloader.dataset.streams.new.remote",
        "x",
        "--job.description=--slow",
    )
    assert config.job.description == "--slow"
    dataset = config.mosaic_dataloader.dataset
    assert (dataset.predownload, dataset.download_timeout) == (5, 7.0)
    assert config.mosaic_validation_dataloader.dataset.streams["new"].remote == "x"


def test_streams_old_new_and_quoted(parse: Any) -> None:
    streams = parse(
        MIXTURE,
        f"{DATASET}.streams.code.proportion",
        "0.25",
        f"{DATASET}.streams.my-text.keep-zip",
        "true",
        f'{DATASET}.streams."new.one".remote=gs://b/a=b',
        f"{DATASET}.streams.new.one.proportion=1",
        f"{DATASET}.streams.my-text.split=train",
        f"{DATASET}.streams.third-one.remote=x",
        f"{DATASET}.streams.third_one.proportion=2",
    ).mosaic_dataloader.dataset.streams
    assert list(streams) == ["code", "my_text", "new.one", "third-one"]
    assert streams["code"].proportion == 0.25
    assert (streams["my_text"].keep_zip, streams["my_text"].split) == (True, "train")
    assert (streams["third-one"].remote, streams["third-one"].proportion) == ("x", 2.0)
    assert (streams["new.one"].remote, streams["new.one"].proportion) == ("gs://b/a=b", 1.0)


def test_stages_one_by_one_and_all_at_once(parse: Any, error: Any) -> None:
    stages = f"{DATASET}.stages"
    file = MIXTURE + (
        "[[mosaic_dataloader.dataset.stages]]\n"
        'tokens = "2B"\nweights = { code = 0.2, my_text = 0.8 }\n'
        "[[mosaic_dataloader.dataset.stages]]\nweights = { code = 1 }\n"
    )
    file = file.replace("proportion = 0.7\n", "").replace("proportion = 0.3\n", "")
    options = [
        *(f"{stages}.1.weights.code", "0.3"),
        f"{stages}.1.weights.my-text=0.7",
        *("--mosaic-dataloader.dataset.stages.2.samples", "1_000"),
        *(f"{stages}.3.weights", "{ code = 0.5, my_text = 0.5 }"),
        *("--mosaic-dataloader.dataset.weights-in", "tokens"),
    ]
    dataset = parse(file, *options).mosaic_dataloader.dataset
    assert dataset.stages == [
        {"tokens": "2B", "weights": {"code": 0.3, "my_text": 0.7}},
        {"weights": {"code": 1}, "samples": 1000},
        {"weights": {"code": 0.5, "my_text": 0.5}},
    ]
    assert dataset.weights_in == "tokens"
    whole = ['[{samples = 9, weights = {"my_text" = 1}}, {weights = {code = 1}}]']
    then = [f"{stages}.2.weights.my-text", "2"]
    assert parse(file, stages, *whole, *then).mosaic_dataloader.dataset.stages == [
        {"samples": 9, "weights": {"my_text": 1}},
        {"weights": {"code": 1, "my-text": 2}},
    ]
    assert parse(file, f"{stages}=[]").mosaic_dataloader.dataset.stages == []
    for given, words in [
        ([stages, "code=1"], f"{stages} code=1: must be a list of tables in TOML, such as"),
        ([stages, "[1, 2]"], f"{stages} [1, 2]: must be a list of tables in TOML, such as"),
        ([f"{stages}.weights.code", "1"], f"write {stages}.1.<key> VALUE for the first table"),
        ([f"{stages}.1", "1"], f"write {stages}.1.<key> VALUE for the first table"),
        ([f"{stages}.4.samples", "1"], f"{stages}.4.samples: the list has 2 tables; give "),
        ([f"{stages}.0.samples", "1"], f"{stages}.0.samples: the list has 2 tables; give "),
        ([f"{stages}.1.tokens.x", "1"], "tokens is '2B' and not a table; remove .x"),
        ([f"{stages}.1.samples"], f"{stages}.1.samples needs one value, got none"),
        (
            ["--mosaic_validation_dataloader.dataset.stages.1.weights.code", "1"],
            "[mosaic_validation_dataloader.dataset] stages is for training",
        ),
    ]:
        assert words in error(file, *given)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        ("-1", -1),
        ("true", True),
        ("False", False),
        ("None", None),
        ("0.5", 0.5),
        ("main", "main"),
        ("", ""),
        ('"7"', "7"),
        ("[1, 'a']", [1, "a"]),
        ("2024-01-01", "2024-01-01"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_tokenizer_arguments_are_toml_literals(parse: Any, text: str, value: object) -> None:
    config = parse(MIXTURE, "--mosaic-tokenizer.kwargs.model-max-length", text)
    kwargs = config.mosaic_tokenizer.kwargs
    assert kwargs == {"model_max_length": value, "padding_side": "left"}
    assert type(kwargs["model_max_length"]) is type(value)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ([f"{DATASET}.shufle"], [f"{DATASET}.shufle;", f"did you mean {DATASET}.shuffle?"]),
        ([f"{DATASET}.no-shufle"], [f"did you mean {DATASET}.no-shuffle?"]),
        (["--mosaic_dataloader.shuffle"], [f"did you mean {DATASET}.shuffle?"]),
        (["--trainin.steps", "5"], ["--trainin.steps;", "did you mean --training.steps?"]),
        (["--steps", "5"], ["--training.steps or --validation.steps"]),
        (["--nothing-like-it"], ["unknown option --nothing-like-it", "--help"]),
        ([f"{DATASET}.streams.code.proportio", "1"], ["streams.code.proportion?"]),
        ([f"{DATASET}.streams.code.shuffle"], [f"did you mean {DATASET}.shuffle?"]),
        ([f"{DATASET}.streams.code", "1"], [f"write {DATASET}.streams.<name>.<key> VALUE"]),
        ([f"{DATASET}.streams", "1"], [f"write {DATASET}.streams.<name>.<key> VALUE"]),
        ([f"{DATASET}.streams.code.proportion", "x"], ["proportion x: must be float or None"]),
        ([f"{DATASET}.streams.code.proportion"], ["proportion needs a value: float or None"]),
        (["--mosaic_tokenizer.kwargs", "1"], ["write --mosaic_tokenizer.kwargs.<key> VALUE"]),
        (["--mosaic_tokenizer.kwargs.a"], ["kwargs.a needs one value, got none"]),
        (["--training.steps", "many"], ["--training.steps many: must be int"]),
        (["--training.steps", "5", "6"], ["--training.steps 5 6: must be int"]),
        (["--training.steps"], ["--training.steps needs a value: int"]),
        ([f"{DATASET}.shuffle", "true"], ["takes no value, got true", f"{DATASET}.no-shuffle"]),
        ([f"{DATASET}.shuffle_algo", "py1r"], ['"py1br"', "did you mean py1br?"]),
        (["--training.batch_size", "4"], ["older TorchTitan's", "training.local_batch_size"]),
        ([f"{DATASET}.replication", "2"], ["replication is not needed", "parallel mesh"]),
        (["--validation.steps", "0"], ["--validation.steps: validation steps must be positive"]),
        (
            ["--parallelism.context_parallel_load_balancer="],
            ["--parallelism.context_parallel_load_balancer: ", "cannot be an empty string"],
        ),
        (["stray"], ["unexpected argument stray"]),
        (["--job.custom_config_module"], ["--job.custom_config_module needs one value"]),
        (["--job.config_file", "b"], ["--config-path", "and --job.config_file b contradict"]),
    ],
)
def test_mistakes_are_one_line(error: Any, options: list[str], parts: list[str]) -> None:
    if options == ["stray"]:
        text = error(None, *options, f"{DATASET}.remote", "x")
    else:
        text = error(MIXTURE, *options)
    for part in parts:
        assert part in text


def test_the_first_wrong_option_is_named(error: Any) -> None:
    text = error(MIXTURE, "--training.steps", "5", "--comm.trace_buf_size", "x", "--foo", "1")
    assert text == "--comm.trace_buf_size x: must be int"
