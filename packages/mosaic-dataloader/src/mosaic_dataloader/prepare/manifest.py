"""A note beside the shards that says what they were made from, and with which tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError

FILE_NAME = "manifest.json"
VERSION = 2


def manifest_text(options: Mapping[str, Any], facts: Mapping[str, Any], **more: Any) -> str:
    """The note of a finished directory.

    Args:
        options: What must be the same for the directory to serve again.
        facts: What came of it.
        more: What its readers need to know.
    """
    note = {"version": VERSION, "complete": True, "options": options, "facts": facts, **more}
    return json.dumps(note, indent=2, sort_keys=True) + "\n"


def parse_manifest(text: str | bytes, where: str, *, setting: str) -> dict[str, Any]:
    """A manifest, finished or not.

    Args:
        text: What the file holds.
        where: Its directory, for messages.
        setting: Name of the option that holds the directory, for messages.

    Raises:
        MosaicDataError: It is none, or of another format.
    """
    try:
        note = json.loads(text)
        version = note["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise MosaicDataError(
            f"prepare: cannot read the {FILE_NAME} of {where} ({error}); delete {where} to "
            f"prepare it again, or choose another {setting}"
        ) from error
    if version != VERSION:
        raise MosaicDataError(
            f"prepare: {where} was written in format {version!r}, this is format {VERSION}; "
            f"delete it to prepare it again, or choose another {setting}"
        )
    return dict(note)


def finished_facts(
    note: Mapping[str, Any], where: str, options: Mapping[str, Any], *, setting: str
) -> dict[str, Any]:
    """What came of a finished directory that was made with these options.

    Args:
        note: Its manifest.
        where: The directory, for messages.
        options: What is wanted now.
        setting: Name of the option that holds the directory, for messages.

    Raises:
        MosaicDataError: The directory was made with other options.
    """
    try:
        made_with, facts = note["options"], note["facts"]
    except KeyError as error:
        raise MosaicDataError(
            f"prepare: the {FILE_NAME} of {where} lacks {error}; delete {where} to prepare it "
            f"again, or choose another {setting}"
        ) from error
    for name, wanted in options.items():
        if made_with.get(name) != wanted:
            raise MosaicDataError(
                f"prepare: {where} was prepared with {name}={made_with.get(name)!r}, now "
                f"{name}={wanted!r}; set it back, choose another {setting}, or delete "
                f"{where} to prepare it again"
            )
    return dict(facts)


def read_manifest(
    directory: Path, options: Mapping[str, Any], *, setting: str
) -> dict[str, Any] | None:
    """Facts of a directory made with these options; None if there is nothing there yet.

    Args:
        directory: The directory to look at.
        options: What is wanted now.
        setting: Name of the option that holds the directory, for messages.

    Raises:
        MosaicDataError: The directory was made with other options, or not by `prepare`.
    """
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
    note = parse_manifest(text, str(directory), setting=setting)
    return finished_facts(note, str(directory), options, setting=setting)
