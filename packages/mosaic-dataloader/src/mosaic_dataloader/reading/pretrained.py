"""A tokenizer by its directory or its name on the Hugging Face hub, or one line why not."""

import importlib.util
import json
import logging
import os
import re
from collections.abc import Mapping
from typing import Any, cast

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.store_errors import one_line

# Seconds for an answer of the hub. Its own library asks six times, over a minute.
_PATIENCE = 5.0
# What a name on the hub looks like; everything else is a path.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)

_CONFIG = "tokenizer_config.json"
_DEFINITION = "tokenizer.json"
# Files that transformers reads for every tokenizer, besides the vocabulary files of its class.
_COMMON_FILES = (
    _CONFIG,
    _DEFINITION,
    "config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
# Keywords that decide where transformers finds a file.
_WHERE = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
# Keywords with which AutoTokenizer looks for the class in another way than by the two config files.
_OTHER_WAYS = ("config", "gguf_file", "mistral_format", "tokenizer_type")
_LONGEST_REASON = 200
_CODE = (
    f"it brings Python code (auto_map in {_CONFIG} or config.json), which is not run: read the "
    "code, then set trust_remote_code = true in the tokenizer's kwargs to have it run"
)


def load_pretrained(name: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> Any:
    """Load a `transformers` tokenizer by its directory, or its name on the hub.

    Every tokenizer of this package is loaded here, by `AutoTokenizer.from_pretrained`.

    What is wrong with a local name is found before transformers is imported, and a hub that does
    not answer is asked once. Then, as where `HF_HUB_OFFLINE` is set, only its local cache is used.

    A tokenizer's files are data: code that they bring runs only with `trust_remote_code = true`
    among the keywords, and no path that stands in them or that a link leads to is followed out of
    their directory. A directory with nothing but `tokenizer.json` gives a
    `PreTrainedTokenizerFast`, which knows no special tokens but those given as keywords.

    Raises:
        MosaicDataError: It cannot be loaded, or brings code that it was not trusted with; one line
            that says why.
    """
    trusted = kwargs.get("trust_remote_code", False)
    if not isinstance(trusted, bool):
        # "false" in quotes would otherwise count as true.
        raise MosaicDataError(f"trust_remote_code = {trusted!r} must be true or false")
    # Of no value, transformers asks on stdin whether to run the code.
    kwargs = {**kwargs, "trust_remote_code": trusted}
    place = os.path.expanduser(os.fspath(name))
    if os.path.isdir(place):
        return _load(place, kwargs)
    if os.path.exists(place):
        raise MosaicDataError(f"{place} is a file, not a directory of tokenizer files")
    if not _HUB_NAME.fullmatch(place):
        raise MosaicDataError(f"there is no directory {place}")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or kwargs.get("local_files_only"):
        return _from_cache(place, kwargs, "the hub is not asked (HF_HUB_OFFLINE)")
    why = _hub_refuses(place, kwargs)
    if why:
        return _from_cache(place, kwargs, why)
    return _load(place, kwargs)


def _hub_refuses(name: str, kwargs: Mapping[str, Any]) -> str:
    """Ask the hub once for the name; empty where it has it.

    Raises:
        MosaicDataError: It has answered that there is none, or that this user may not read it.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    revision, token = kwargs.get("revision"), kwargs.get("token")
    # Every failure to connect: of requests, which are OSErrors, or of httpx in later versions.
    unreachable: tuple[Any, ...] = (OSError, *HfHubHTTPError.__bases__)
    try:
        HfApi().model_info(name, revision=revision, token=token, timeout=_PATIENCE)
    except GatedRepoError as error:
        raise MosaicDataError(
            "the hub wants its terms accepted, and the token (HF_TOKEN) of a user who did"
        ) from error
    except RepositoryNotFoundError as error:
        raise MosaicDataError(
            f"there is neither a directory {name} here nor a model of that name on the hub that "
            "may be read without a token (HF_TOKEN)"
        ) from error
    except HfHubHTTPError as error:
        response: Any = error.response
        return f"{constants.ENDPOINT} answers with an error ({response.status_code})"
    except unreachable as error:
        return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    return ""


def _from_cache(name: str, kwargs: Mapping[str, Any], why: str) -> Any:
    try:
        return _load(name, {**kwargs, "local_files_only": True})
    except MosaicDataError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise MosaicDataError(
            f"there is no directory {name} here, {why}, and the hub's cache on this machine does "
            "not hold it"
        ) from error


def _load(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Load from a directory, or from the hub or its cache."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

    own = _read_json(name, _CONFIG, kwargs)
    model = {} if own.get("tokenizer_class") else _read_json(name, "config.json", kwargs)
    named = own.get("tokenizer_class") or model.get("tokenizer_class")
    kind = _class_of(named, model.get("model_type"), fast=kwargs.get("use_fast", True))
    brings_code = _has_code(own) or (not named and _has_code(model))
    if kind is None and brings_code and not kwargs["trust_remote_code"]:
        raise MosaicDataError(_CODE)
    options, load = dict(kwargs), cast(Any, AutoTokenizer)
    other_way = any(kwargs.get(key) for key in _OTHER_WAYS)
    if (
        kind is None
        and not (named or brings_code or other_way)
        and _find(name, _DEFINITION, kwargs)
    ):
        # AutoTokenizer asks for the name of a class, which a complete definition does not need.
        kind = load = PreTrainedTokenizerFast
        options.pop("use_fast", None)
        options.pop("trust_remote_code")
    if kind is not None:
        _check_class(kind)
        _refuse_paths(own, kind)
        if os.path.isdir(name):
            folder = os.path.join(name, kwargs.get("subfolder") or "")
            _refuse_links(name, folder, kind)
            # transformers 5 makes an empty vocabulary in place of one that is missing.
            if not other_way and (reason := _vocabulary(folder, kind)[1]):
                raise MosaicDataError(reason)
    # Where no file names a class, transformers guesses one from the path, and warns of the other.
    guesses = logging.getLogger("transformers.tokenization_utils_base")
    before = guesses.disabled
    guesses.disabled = before or not named
    try:
        loaded = load.from_pretrained(name, **options)
        if not isinstance(loaded, PreTrainedTokenizerBase):
            # What transformers returns in place of a tokenizer whose vocabulary it cannot read.
            raise ValueError("its vocabulary file cannot be read")
    except Exception as error:
        # Hub, file and parser errors of every kind end here.
        raise MosaicDataError(_why(name, kwargs, kind, named, error)) from error
    finally:
        guesses.disabled = before
    return loaded


def _find(name: str, file: str, kwargs: Mapping[str, Any]) -> str | None:
    """Path of one of a tokenizer's files, fetched if need be; None where there is no such file."""
    from transformers.utils.hub import cached_file

    try:
        found: str | None = cached_file(
            name,
            file,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **{key: kwargs[key] for key in _WHERE if key in kwargs},
        )
    except (OSError, ValueError) as error:  # a name or a revision that the hub does not take
        raise MosaicDataError(one_line(error, _LONGEST_REASON)) from error
    return found


def _read_json(name: str, file: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a configuration file; empty where there is none."""
    path = _find(name, file, kwargs)
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8") as opened:
            content = json.load(opened)
    except (OSError, ValueError, RecursionError) as error:
        raise MosaicDataError(f"{path} is damaged ({_one_line(error)}): copy it again") from error
    if not isinstance(content, dict):
        raise MosaicDataError(f"{path} is damaged (it holds no JSON object): copy it again")
    return content


def _has_code(config: Mapping[str, Any]) -> bool:
    """Whether a configuration file names code for a tokenizer."""
    code = config.get("auto_map")
    return bool(code.get("AutoTokenizer")) if isinstance(code, dict) else bool(code)


def _class_of(named: object, model_type: object, *, fast: bool) -> Any:
    """The class of transformers that AutoTokenizer would choose; None if it knows none."""
    from transformers.models.auto.tokenization_auto import (
        TOKENIZER_MAPPING_NAMES,
        tokenizer_class_from_name,
    )

    if named:
        if not isinstance(named, str):
            raise MosaicDataError(f"its tokenizer_class, {named!r}, is not a name: correct it")
        candidates = [f"{named}Fast"] if fast and not named.endswith("Fast") else []
        candidates.append(named)
    else:
        # The Python class and the fast one; in later versions of transformers a single name.
        known: Any = TOKENIZER_MAPPING_NAMES.get(str(model_type))
        candidates = list(known) if isinstance(known, tuple) else [known]
        if fast:
            candidates.reverse()
    found = (tokenizer_class_from_name(name) for name in candidates if name)
    return next((kind for kind in found if kind is not None), None)


def _check_class(kind: Any) -> None:
    """Refuse what is not a tokenizer.

    transformers takes any name of its own for a tokenizer's class. The `from_pretrained` of an
    `AutoModel`, or of a tokenizer made of others, looks for code in its turn, without asking
    whether that is trusted.
    """
    from transformers import PreTrainedTokenizerBase

    if isinstance(kind, type) and issubclass(kind, PreTrainedTokenizerBase):
        return
    name = getattr(kind, "__name__", str(kind))
    packages = getattr(kind, "_backends", None)
    if packages:  # the stand-in for a class whose package is not installed
        raise MosaicDataError(
            f"its class {name} needs the package {' and '.join(packages)}, which is not "
            f"installed: install it, or add the {_DEFINITION} that save_pretrained() writes where "
            "it is"
        )
    raise MosaicDataError(
        f"its class {name} is not a tokenizer: correct tokenizer_class in {_CONFIG}"
    )


def _refuse_paths(own: Mapping[str, Any], kind: Any) -> None:
    """Refuse a configuration that names files: transformers would follow any path."""
    keys = {"tokenizer_file", *kind.vocab_files_names}
    named = [key for key in sorted(keys) if isinstance(own.get(key), str)]
    if own.get("init_inputs"):
        named.append("init_inputs")
    versions = own.get("fast_tokenizer_files") or ()
    if any(os.path.basename(str(file)) != file for file in versions):
        named.append("fast_tokenizer_files")
    if named:
        raise MosaicDataError(
            f"its {_CONFIG} names files by path ({', '.join(named)}), which is not followed: "
            "remove that, and put the files beside it"
        )


def _refuse_links(folder: str, files_in: str, kind: Any) -> None:
    """Refuse tokenizer files that are links out of their directory."""
    root = os.path.realpath(folder)
    within = [root]
    # In the hub's cache, files are links to `blobs` beside `snapshots`.
    parent, snapshots = os.path.split(os.path.dirname(root))
    if snapshots == "snapshots":
        within.append(os.path.join(parent, "blobs"))
    for name in sorted({*_COMMON_FILES, *filter(None, kind.vocab_files_names.values())}):
        path = os.path.join(files_in, name)
        target = os.path.realpath(path)
        if os.path.lexists(path) and not any(
            os.path.commonpath([target, place]) == place for place in within
        ):
            raise MosaicDataError(
                f"{path} is a link to {target}, outside the directory: copy the file there"
            )


def _why(name: str, kwargs: Mapping[str, Any], kind: Any, named: object, error: Exception) -> str:
    """Why it could not be loaded: the file or the package that is missing, if that is known."""
    if isinstance(error, ValueError) and "trust_remote_code" in str(error):
        return _CODE
    if os.path.isdir(name) and (kind is not None or not named):
        folder = os.path.join(name, kwargs.get("subfolder") or "")
        reason = _what_is_missing(folder, kind)
        if reason:
            return reason
    return one_line(error, _LONGEST_REASON)


def _vocabulary(folder: str, kind: Any) -> tuple[list[str], str]:
    """The files of a tokenizer's vocabulary that are there; why it has none, if it needs one."""
    files = sorted(filter(None, kind.vocab_files_names.values())) if kind else [_DEFINITION]
    present = [file for file in files if os.path.isfile(os.path.join(folder, file))]
    if present or not files:
        return present, ""
    if kind is None:
        return [], (
            f"it holds no {_DEFINITION}, and no {_CONFIG} whose tokenizer_class says how to read "
            "other files: copy all of the tokenizer's files, or write them with save_pretrained()"
        )
    return [], f"its vocabulary is missing: copy {' or '.join(files)} to it"


def _what_is_missing(folder: str, kind: Any) -> str:
    from tokenizers import Tokenizer

    present, reason = _vocabulary(folder, kind)
    if reason:
        return reason
    if _DEFINITION in present:
        try:
            Tokenizer.from_file(os.path.join(folder, _DEFINITION))
        except Exception as error:  # what the parser raises
            return f"its {_DEFINITION} is damaged ({_one_line(error)[:100]}): copy it again"
    elif (
        any(file.endswith(".model") for file in present)
        and importlib.util.find_spec("sentencepiece") is None
    ):
        return (
            f"the package sentencepiece, which reads its {' or '.join(present)}, is not installed: "
            f"install it, or add the {_DEFINITION} that save_pretrained() writes where it is"
        )
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
