"""A tokenizer by its directory or its name on the Hugging Face hub, or one line why not."""

import os
import re
from collections.abc import Mapping
from typing import Any

from mosaic_dataloader.errors import MosaicDataError

# Seconds for an answer of the hub. Its own library asks six times, over a minute.
_PATIENCE = 5.0
# What a name on the hub looks like; everything else is a path.
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", re.ASCII)


def load_pretrained(name: str | os.PathLike[str], kwargs: Mapping[str, Any]) -> Any:
    """Load a `transformers` tokenizer.

    What is wrong with a local name is found before transformers is imported, and a hub that does
    not answer is asked once. Then, as where `HF_HUB_OFFLINE` is set, only its local cache is used.

    Args:
        name: A directory, or a name on the hub.
        kwargs: For `AutoTokenizer.from_pretrained`.

    Raises:
        MosaicDataError: It cannot be loaded; one line that says why, without the remedy.
    """
    place = os.path.expanduser(os.fspath(name))
    if os.path.isdir(place):
        return _from_files(place, dict(kwargs))
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
    return _from_files(place, dict(kwargs))


def _hub_refuses(name: str, kwargs: Mapping[str, Any]) -> str:
    """Ask the hub once for the name; empty where it has it.

    Raises:
        MosaicDataError: It has answered that there is none, or that this user may not read it.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    revision, token = kwargs.get("revision"), kwargs.get("token")
    try:
        HfApi().model_info(name, revision=revision, token=token, timeout=_PATIENCE)
    except GatedRepoError as error:
        raise MosaicDataError(
            "the hub wants its terms accepted, and a token (HF_TOKEN) of who has"
        ) from error
    except RepositoryNotFoundError as error:
        raise MosaicDataError(
            f"there is neither a directory {name} here nor a model of that name on the hub that "
            "may be read without a token (HF_TOKEN)"
        ) from error
    except HfHubHTTPError as error:
        return f"{constants.ENDPOINT} answers with an error ({_one_line(error)})"
    except OSError as error:  # every failure to connect
        return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    return ""


def _from_cache(name: str, kwargs: Mapping[str, Any], why: str) -> Any:
    try:
        return _from_files(name, {**kwargs, "local_files_only": True})
    except MosaicDataError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        raise MosaicDataError(
            f"there is no directory {name} here, {why}, and the hub's cache on this machine does "
            "not hold it"
        ) from error


def _from_files(name: str, kwargs: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, **kwargs)
    except Exception as error:
        # Hub, file and parser errors of every kind end here.
        raise MosaicDataError(f"{type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
