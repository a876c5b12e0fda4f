"""A note beside the shards that says what they were made from, and with which tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError

FILE_NAME = "manifest.json"
VERSION = 4


def manifest_text(options: Mapping[str, Any], facts: Mapping[str, Any], **more: Any) -> str:
    """The manifest of a finished directory."""
    note = {"version": VERSION, "complete": True, "options": options, "facts": facts, **more}
    return json.dumps(note, indent=2, sort_keys=True) + "\n"


def finished_facts(
    text: str | bytes, where: str, options: Mapping[str, Any], *, setting: str
) -> dict[str, Any]:
    """What came of a finished directory that was made with these options."""
    otherwise = f"delete {where} to prepare it again, or choose another {setting}"
    try:
        note = json.loads(text)
        version, made_with, facts = note["version"], note["options"], dict(note["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise MosaicDataError(
            f"prepare: cannot read the {FILE_NAME} of {where} ({error}); {otherwise}"
        ) from error
    if version != VERSION:
        raise MosaicDataError(
            f"prepare: {where} was written in format {version!r}, this is format {VERSION}; "
            f"{otherwise}"
        )
    for name, wanted in json.loads(json.dumps(options)).items():
        if made_with.get(name) != wanted:
            raise MosaicDataError(
                f"prepare: {where} was prepared with {name}={made_with.get(name)!r}, now "
                f"{name}={wanted!r}; set it back, or {otherwise}"
            )
    return facts


def read_manifest(
    directory: Path, options: Mapping[str, Any], *, setting: str
) -> dict[str, Any] | None:
    """Facts of a directory made with these options; None if there is nothing there yet."""
    try:
        text = (directory / FILE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
            return None
        raise MosaicDataError(
            f"prepare: {directory} exists and was not written by prepare; "
            f"move it away or choose another {setting}"
        ) from None
    except OSError as error:
        raise MosaicDataError(
            f"prepare: cannot read {directory / FILE_NAME} ({error.strerror}); choose another "
            f"{setting}"
        ) from error
    return finished_facts(text, str(directory), options, setting=setting)
