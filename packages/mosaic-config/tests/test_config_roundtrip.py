"""What is written in TOML or on the command line is what the configuration holds."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_config import MosaicJobConfig, MosaicStream, MosaicTokenizer

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
name = st.one_of(
    st.sampled_from(["code", "a.b", "a b", "a-b", "a_b", '"', "", "ключ", "no_x"]), text
)
number = st.floats(0, 1e9, allow_nan=False).map(float)
optional = st.fixed_dictionaries
extras: dict[str, Any] = {
    "split": text,
    "download_retry": st.integers(0, 9),
    "download_timeout": st.one_of(st.integers(1, 99), st.floats(0.5, 99)),
    "validate_hash": text,
    "keep_zip": st.booleans(),
}
path = text.filter(lambda written: not written.startswith("~"))  # a home directory is expanded
location = st.one_of(
    optional({"remote": path.filter(bool)}, optional={"local": path}),
    optional({"local": path.filter(bool)}),
)


@st.composite
def streams(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    names = draw(st.lists(name, min_size=1, max_size=4, unique=True))
    relative = draw(st.booleans())
    weight = (
        st.fixed_dictionaries({"proportion": st.floats(0.01, 9)})
        if relative
        else st.one_of(
            st.just({}),
            st.fixed_dictionaries({"repeat": number}),
            st.fixed_dictionaries({"choose": st.integers(0, 9)}),
        )
    )
    more = st.fixed_dictionaries({}, optional=extras)
    return {n: {**draw(location), **draw(weight), **draw(more)} for n in names}


dataset_options = st.fixed_dictionaries(
    {},
    optional={
        "shuffle": st.booleans(),
        "shuffle_algo": st.sampled_from(["py1e", "py1s", "py2s", "py1br", "naive", "feistel"]),
        "shuffle_seed": st.integers(0, 2**31),
        "shuffle_block_size": st.integers(2, 2**20),
        "predownload": st.integers(0, 99),
        "cache_limit": st.one_of(st.integers(1, 2**40), st.just("10gb")),
        "token_encoding_type": st.sampled_from(["uint16", "int64"]),
        "on_data_change": st.sampled_from(["error", "restart_epoch"]),
    },
)
literal = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), number, text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=4,
).filter(lambda v: not _has_table_in_list(v))


def _has_table_in_list(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(v, dict) or _has_table_in_list(v) for v in value)
    return isinstance(value, dict) and any(map(_has_table_in_list, value.values()))


def expected(
    streams: dict[str, dict[str, Any]], options: dict[str, Any], kwargs: dict[str, Any]
) -> MosaicJobConfig:
    config = MosaicJobConfig()
    dataset = config.mosaic_dataloader.dataset
    for key, value in options.items():
        setattr(dataset, key, value)
    dataset.streams = {n: MosaicStream(**fields) for n, fields in streams.items()}
    config.mosaic_tokenizer = MosaicTokenizer("some/name", kwargs)
    return config


@settings(max_examples=settings().max_examples // 10)
@given(streams(), dataset_options, st.dictionaries(text, literal, max_size=3))
def test_toml_holds_what_was_written(
    parse: Any, streams: dict[str, Any], options: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    tables = {
        "mosaic_dataloader": {"dataset": {**options, "streams": streams}},
        "mosaic_tokenizer": {"name": "some/name", "kwargs": kwargs},
    }
    config = parse(tables)
    want = expected(streams, options, kwargs)
    assert config.job.config_file.endswith("job.toml")
    config.job.config_file = None
    assert config == want
    for stream in config.mosaic_dataloader.dataset.streams.values():
        assert type(stream.download_timeout) in (float, type(None)), "an int became a float"


@settings(max_examples=settings().max_examples // 10)
@given(streams(), st.data())
def test_command_line_wins_over_toml_and_leaves_the_rest(
    parse: Any, streams: dict[str, Any], data: st.DataObject
) -> None:
    """Also for stream names with dots, spaces and quotes; only `=` ends an option's name."""
    usable = [n for n in streams if n and "=" not in n and not _quoted(n)]
    changed = data.draw(st.lists(st.sampled_from(usable), unique=True)) if usable else []
    seed = data.draw(st.one_of(st.none(), st.integers(0, 2**31)))
    options = [] if seed is None else ["--mosaic_dataloader.dataset.shuffle_seed", str(seed)]
    for n in changed:
        options += [f"--mosaic-dataloader.dataset.streams.{n}.download-retry", "77"]
    tables = {"mosaic_dataloader": {"dataset": {"shuffle_seed": 5, "streams": streams}}}
    dataset = parse(tables, *options).mosaic_dataloader.dataset
    assert dataset.shuffle_seed == (5 if seed is None else seed)
    want = {n: MosaicStream(**fields) for n, fields in streams.items()}
    for n in changed:
        want[n].download_retry = 77
    assert dataset.streams == want


def _quoted(text: str) -> bool:
    return len(text) > 2 and text[0] == text[-1] and text[0] in "\"'"
