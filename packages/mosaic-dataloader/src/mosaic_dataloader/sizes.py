"""Sizes as people write them."""

import math
import re

from mosaic_dataloader.errors import MosaicDataError

_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40, "pb": 1 << 50}
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def parse_bytes(option: str, value: int | str) -> int:
    """A number of bytes: ``10gb``, ``500mb``, ``1024`` (units are powers of 1024).

    Raises:
        MosaicDataError: It is not such a size.
    """
    return _parse(option, value, _BYTES, "10gb, 500mb")


def parse_count(option: str, value: int | str) -> int:
    """A number of samples: ``100k``, ``64M``, ``77b``, ``1000``.

    Raises:
        MosaicDataError: It is not such a number.
    """
    return _parse(option, value, _COUNTS, "100k, 64M")


def _parse(option: str, value: int | str, units: dict[str, int], examples: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(value))
    if match is None or match[2].lower() not in units:
        raise MosaicDataError(f"{option} = {value!r} is no size; write for example {examples}")
    wanted = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(wanted):
        raise MosaicDataError(f"{option} = {value!r} is too large")
    size = int(wanted)
    if size < 1:
        raise MosaicDataError(f"{option} = {value!r} must be at least 1")
    return size
