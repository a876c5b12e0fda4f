"""A note inside each directory that says what it was made from, so that it is not made twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError

FILE_NAME = "manifest.json"
VERSION = 1


def write_manifest(directory: Path, options: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the note; the last file that goes into a directory.

    Args:
        directory: The directory that it describes.
        options: What must be the same for the directory to serve again.
        facts: What came of it.
    """
    text = json.dumps(
        {"version": VERSION, "options": dict(options), "facts": dict(facts)},
        indent=2,
        sort_keys=True,
    )
    (directory / FILE_NAME).write_text(text + "\n", encoding="utf-8")


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
        note = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
        version, made_with, facts = note["version"], note["options"], note["facts"]
    except FileNotFoundError:
        if directory.is_dir() and not any(directory.iterdir()):
            return None
        if directory.exists():
            raise MosaicDataError(
                f"prepare: {directory} exists and was not written by prepare; "
                f"move it away or choose another {setting}"
            ) from None
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MosaicDataError(
            f"prepare: cannot read {directory / FILE_NAME} ({error}); delete {directory} to "
            f"prepare it again, or choose another {setting}"
        ) from error
    if version != VERSION:
        raise MosaicDataError(
            f"prepare: {directory} was written in format {version!r}, this is format {VERSION}; "
            f"delete it to prepare it again, or choose another {setting}"
        )
    for name, wanted in options.items():
        if made_with.get(name) != wanted:
            raise MosaicDataError(
                f"prepare: {directory} was prepared with {name}={made_with.get(name)!r}, now "
                f"{name}={wanted!r}; set it back, choose another {setting}, or delete "
                f"{directory} to prepare it again"
            )
    return dict(facts)
