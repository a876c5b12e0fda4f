"""One line for each mistake in a TOML file: the key, its place, and what to write instead."""

import os
from pathlib import Path
from typing import Any

import pytest

from mosaic_config import ConfigError, MosaicConfigManager, MosaicJobConfig
from mosaic_config.schema import keys_of, tables
from mosaic_config.unsupported_keys import _DROPPED, _RENAMED

DATA = '[mosaic_dataloader.dataset]\nremote = "data"\n'
DATASET = "job.toml: [mosaic_dataloader.dataset]"


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("shufle = true", f'{DATASET} has no key "shufle"; did you mean "shuffle"?'),
        ("Shuffle = true", f'{DATASET} has no key "Shuffle"; did you mean "shuffle"?'),
        (
            "proportion = 1.0",
            f'{DATASET} has no key "proportion"; '
            "it belongs in [mosaic_dataloader.dataset.streams.<name>]",
        ),
        (
            "[mosaic_dataloader]\nshuffle = true",
            'job.toml: [mosaic_dataloader] has no key "shuffle"; '
            "it belongs in [mosaic_dataloader.dataset]",
        ),
        (
            "[mosaic_dataloader.dataset.streams.'a b.c']\nremot = 'x'",
            'job.toml: [mosaic_dataloader.dataset.streams."a b.c"] has no key "remot"; '
            'did you mean "remote"?',
        ),
        (
            "[mosaic_dataloader.dataset.streams.a]\nshuffle = true",
            'job.toml: [mosaic_dataloader.dataset.streams.a] has no key "shuffle"; '
            "it belongs in [mosaic_dataloader.dataset]",
        ),
        (
            "[training]\nstesp = 3",
            'job.toml: [training] has no key "stesp"; did you mean "steps"?',
        ),
        (
            "[mosaic_dataloder]\nname = 'text'",
            "job.toml: there is no table [mosaic_dataloder]; did you mean [mosaic_dataloader]?",
        ),
        (
            "[dataset]\nremote = 'x'",
            "job.toml: there is no table [dataset]; did you mean [mosaic_dataloader.dataset] "
            "or [mosaic_validation_dataloader.dataset]?",
        ),
        (
            "[mosaic_tokenizer]\nmodel_max_length = 2",
            'job.toml: [mosaic_tokenizer] has no key "model_max_length"; its keys are name, kwargs '
            "(free keys go in [mosaic_tokenizer.kwargs])",
        ),
        (
            "[training]\nsteps = 'many'",
            'job.toml: [training] steps = "many": must be int, not str',
        ),
        ("shuffle_seed = true", f"{DATASET} shuffle_seed = true: must be int, not bool"),
        ("shuffle = 1", f"{DATASET} shuffle = 1: must be bool, not int"),
        ("epoch_size = 1.5", f"{DATASET} epoch_size = 1.5: must be int or str, not float"),
        ("split = 1979-05-27", f"{DATASET} split = 1979-05-27: must be str, not date"),
        (
            "[model]\nconverters = 'a,b'",
            'job.toml: [model] converters = "a,b": must be list[str], not str',
        ),
        (
            "shuffle_algo = 'py1r'",
            f'{DATASET} shuffle_algo = "py1r": must be one of "py1e", "py1s", "py2s", "py1br", '
            '"naive", "feistel"; did you mean "py1br"?',
        ),
        (
            "streams = ['a']",
            "job.toml: mosaic_dataloader.dataset.streams is a table; write "
            '[mosaic_dataloader.dataset.streams] and its keys below, not streams = ["a"]',
        ),
        (
            "[checkpoint]\nenable_checkpoint = true",
            "job.toml: [checkpoint] enable_checkpoint is an older TorchTitan's name: write "
            "checkpoint.enable",
        ),
        (
            "[float8]\nfilter_fqns = ['output']",
            "job.toml: [float8] is an older TorchTitan's name: write quantize.linear.float8",
        ),
        (
            "[checkpoint]\ninterval_type = 'steps'",
            "job.toml: [checkpoint] interval_type is an older TorchTitan's: checkpoint.interval "
            "counts steps; remove it",
        ),
        (
            "[experimental]\npipeline_parallel_degree = 2",
            'job.toml: [experimental] has no key "pipeline_parallel_degree"; it belongs in '
            "[parallelism]",
        ),
        (
            "[validation]\nsteps = 0",
            "job.toml: [validation]: validation steps must be positive or -1",
        ),
    ],
)
def test_message(error: Any, toml: str, text: str) -> None:
    assert error(toml if toml.startswith("[") else f"{DATA}{toml}\n") == text


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("replication = 2", ["replication", "parallel mesh"]),
        ("batch_size = 8", ["batch_size", "training.local_batch_size"]),
        ("stream_name = 'x'", ["stream_name", "remove it"]),
        ("stream_config = {}", ["stream_config", "[mosaic_dataloader.dataset.streams.<name>]"]),
        ("timeout = 5", ["timeout", "download_timeout"]),
        ("partition_algo = 'orig'", ["order is always elastic", '"relaxed"']),
    ],
)
def test_options_left_out_on_purpose_say_why(error: Any, toml: str, parts: list[str]) -> None:
    text = error(f"{DATA}{toml}\n")
    assert text.startswith(DATASET)
    for part in parts:
        assert part in text


def test_what_replaces_an_older_torchtitan_s_key_is_a_key() -> None:
    present = {
        ".".join((*path, key))
        for path, cls in tables(MosaicJobConfig).items()
        for key in keys_of(cls)
    }
    for text in _RENAMED.values():
        assert text.partition(" =")[0].partition(",")[0] in present, text
    assert not present & {*_RENAMED, *_DROPPED}


def test_validation_has_its_own_batch_size(error: Any) -> None:
    text = error(f"{DATA}[mosaic_validation_dataloader.dataset]\nbatch_size = 8\n")
    assert "validation.local_batch_size" in text


def test_every_mistake_in_the_file_is_told_at_once(parse: Any) -> None:
    """Wrong keys, types, values of a section and numbers out of bounds, each in a line."""
    with pytest.raises(ConfigError) as caught:
        parse(
            f"{DATA}shufle = true\nshuffle_seed = 'x'\npredownload = -1\n"
            "[mosaic_dataloader.dataset.streams.a]\nremot = 'x'\nproportion = -2.0\n"
            "[training]\nsteps = 1.5\n[validation]\nsteps = 0\n[nothing]\nx = 1\n"
        )
    problems = caught.value.problems
    assert str(caught.value) == "; ".join(problems)
    assert all(" job.toml: " in f" {Path(p.split(': ')[0]).name}: " for p in problems)
    told = [problem.split("job.toml: ")[1] for problem in problems]
    for start in (
        '[mosaic_dataloader.dataset] has no key "shufle"; did you mean "shuffle"?',
        '[mosaic_dataloader.dataset] shuffle_seed = "x": must be int',
        '[mosaic_dataloader.dataset.streams.a] has no key "remot"',
        "[training] steps = 1.5: must be int",
        "[validation]: validation steps must be positive",
        "there is no table [nothing]",
        "[mosaic_dataloader.dataset] predownload = -1: must be at least 0",
        "[mosaic_dataloader.dataset.streams.a] proportion = -2.0: must be at least 0",
    ):
        assert sum(line.startswith(start) for line in told) == 1, (start, told)
    assert len(told) == 8


@pytest.mark.parametrize("toml", ['"a\\u0085b\\nc" = 1', '"\\u2028" = 1', 'split = ["a\\n\\r"]'])
def test_odd_characters_do_not_break_the_line(error: Any, toml: str) -> None:
    assert error(f"{DATA}{toml}\n").startswith(DATASET)  # the fixture counts the lines


def test_int_where_float_is_expected_but_not_where_both_are(parse: Any) -> None:
    config = parse(f"{DATA}download_timeout = 5\n[training]\nmax_norm = 2\n")
    assert type(config.mosaic_dataloader.dataset.download_timeout) is float
    assert type(config.training.max_norm) is int


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ("a = \n", ["not valid TOML", "line 1"]),
        ("[a]\nx = 1\n[a]\n", ["given twice", "line 3"]),
        ("x = 1\nx = 2\ny = 3\n", ["given twice", "line 2"]),
    ],
)
def test_malformed_toml(error: Any, toml: str, parts: list[str]) -> None:
    text = error(toml)
    for part in ["job.toml: ", *parts]:
        assert part in text


def test_unreadable_files(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path, why in [
        (tmp_path / "missing.toml", "no such file"),
        (tmp_path, "cannot be read"),
        (binary, "not UTF-8"),
    ]:
        with pytest.raises(ConfigError) as caught:
            MosaicConfigManager().parse_args(["--config-path", os.fspath(path)])
        assert str(caught.value).startswith(f"{path}: ")
        assert why in str(caught.value)
