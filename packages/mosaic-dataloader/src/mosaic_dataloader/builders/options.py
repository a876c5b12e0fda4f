"""Reading configuration sections by attribute, whatever class they are of."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mosaic_dataloader.errors import MosaicDataError


def section(config: Any, name: str) -> Any:
    """One section of a configuration.

    Raises:
        MosaicDataError: There is no such section.
    """
    found = getattr(config, name, None)
    if found is None:
        raise MosaicDataError(f"the configuration has no [{name}] section")
    return found


def as_options(value: Any) -> dict[str, Any]:
    """A section's options that are set, as a mapping.

    Args:
        value: A dataclass instance, a mapping, or any object with attributes.
    """
    if isinstance(value, Mapping):
        pairs = dict(value)
    elif dataclasses.is_dataclass(value):
        pairs = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        pairs = dict(vars(value))
    return {key: option for key, option in pairs.items() if option is not None}
