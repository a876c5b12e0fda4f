"""The sections `[mosaic_dataloader]`, `[mosaic_tokenizer]` and `[mosaic_validation_dataloader]`.

They are the same as in a TOML file of torchtitan 0.2.2's app, and come from a file, from JSON, or
from both. What is checked here is what the loader cannot know: sections, keys and types.
"""

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from mosaic_dataloader import MosaicDataError

TRAINING = "mosaic_dataloader"
VALIDATION = "mosaic_validation_dataloader"
TOKENIZER = "mosaic_tokenizer"
SECTIONS = (TRAINING, TOKENIZER, VALIDATION)

# Of `[mosaic_dataloader]` itself; everything else is in its `dataset` table.
LOADER_KEYS = (
    "num_workers",
    "prefetch_factor",
    "pin_memory",
    "persistent_workers",
    "stall_warning",
    "drop_last",
    "skip_samples",
)
_STREAM: dict[str, Any] = {
    "remote": str,
    "local": str,
    "split": str,
    "proportion": float,
    "repeat": float,
    "choose": int,
    "max_repeats": float,
    "download_retry": int,
    "download_timeout": float,
    "validate_hash": str,
    "keep_zip": bool,
}
_TOKENIZER: dict[str, Any] = {"name": str, "kwargs": dict}


def read(
    config_file: str | None, given: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Sections as fields of the components' configurations.

    Args:
        config_file: A TOML file; None for none.
        given: Sections that replace those of the file, key by key; `streams` stands for
            `mosaic_dataloader.dataset.streams`.
        options: Type of each option of a loader, by name.

    Returns:
        By section, the options that are set. Those of a loader's `dataset` table stand beside its
        own.

    Raises:
        MosaicDataError: The file cannot be read, or a section, key or type is wrong; one line.
    """
    sections = _file(config_file) if config_file else {}
    given = dict(given)
    if "streams" in given:
        dataset, own = {"streams": given.pop("streams")}, given.get(TRAINING, {})
        given[TRAINING] = _merged({"dataset": dataset}, own) if isinstance(own, Mapping) else own
    where = config_file or "use_mosaic"
    for name in (*sections, *given):
        if name not in SECTIONS:
            raise MosaicDataError(
                f"{where}: [{name}] is not a section of mosaic_titan"
                f"{_nearest(name, SECTIONS)}; other settings are torchtitan's own options"
            )
    sections = _merged(sections, given)
    if not sections:
        raise MosaicDataError(
            f"{where}: there is no section; give config_file, streams or [{TRAINING}]"
        )
    return {name: _section(where, name, table, options) for name, table in sections.items()}


def _file(path: str) -> dict[str, Any]:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise MosaicDataError(
            f"cannot read config_file {path!r} ({error.strerror}); correct its path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MosaicDataError(f"config_file {path!r} is not TOML: {error}") from error


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merged key by key; what is not a table is replaced."""
    found = dict(below)
    for key, value in above.items():
        old = found.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        found[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return found


def _section(where: str, name: str, table: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    if name == TOKENIZER:
        return _checked(where, name, table, _TOKENIZER)
    loader = {key: options[key] for key in LOADER_KEYS}
    found = _checked(where, name, table, {**loader, "name": str, "dataset": dict})
    if found.pop("name", "text") != "text":
        raise MosaicDataError(f'{where}: [{name}] name must be "text"')
    inner = {key: hint for key, hint in options.items() if key not in LOADER_KEYS}
    dataset = _checked(where, f"{name}.dataset", found.pop("dataset", {}), inner)
    for stream, own in dataset.get("streams", {}).items():
        _checked(where, f"{name}.dataset.streams.{stream}", own, _STREAM)
    return {**found, **dataset}


def _checked(where: str, path: str, table: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise MosaicDataError(f"{where}: [{path}] is {table!r}; write a table of options")
    for key, value in table.items():
        if key not in hints:
            raise MosaicDataError(f"{where}: [{path}] has no option {key!r}{_nearest(key, hints)}")
        if not _fits(value, hints[key]):
            raise MosaicDataError(
                f"{where}: [{path}] {key} = {value!r} must be {_in_words(hints[key])}"
            )
    return dict(table)


def _nearest(word: str, choices: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of TOML or JSON is of a type; whole numbers also count as floats."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Annotated:
        return _fits(value, typing.get_args(hint)[0])
    kind = typing.get_origin(hint) or hint
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # What TOML and JSON have for a tuple.
    return isinstance(value, list if kind is tuple else kind)


def _in_words(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    kinds = [one for one in typing.get_args(hint) if one is not types.NoneType]
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        kinds = [typing.get_origin(hint) or hint]
    words = {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        list: "a list",
        tuple: "a list",
    }
    return " or ".join(words.get(typing.get_origin(kind) or kind, "a table") for kind in kinds)
