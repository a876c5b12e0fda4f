"""The saved form: JSON with a checksum, read as data from outside."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, fields
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from mosaic_dataloader.errors import MosaicDataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

# Far above any number of samples, and far enough below 2**63 to calculate with.
LARGEST = 1 << 53
_SHOWN = 60
_KINDS = {int: "a whole number", str: "text", bool: "true or false"}


def sealed(content: Mapping[str, Any]) -> str:
    """JSON values as text, with a checksum over all of them."""
    return json.dumps({**content, "checksum": _checksum(content)}, sort_keys=True)


def unsealed(content: dict[str, Any]) -> dict[str, Any] | None:
    """What ``sealed`` was given, from the text as ``parsed`` reads it; None if it was changed."""
    rest = {key: value for key, value in content.items() if key != "checksum"}
    try:
        return rest if content.get("checksum") == _checksum(rest) else None
    except RecursionError:
        return None


def parsed(text: str) -> Any:
    """JSON values.

    Raises:
        ValueError: The text is not JSON, or nothing that could be read without harm: nested too
            deeply, or with a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_fields(cls: type[T], content: object, where: str) -> T:
    """Make a dataclass, all of whose fields hold single values, of JSON values: see `take_fields`.

    Raises:
        MosaicDataError: A field is missing, unknown, or of another type.
    """
    if not isinstance(content, dict):
        raise damaged(f"{where} is {shown(content)}, not an object")
    refuse_unknown(content, [own.name for own in fields(cls)], where)
    return cls(**take_fields(cls, dict(content), where))


def take_fields(
    cls: "type[DataclassInstance]", content: dict[str, Any], where: str
) -> dict[str, Any]:
    """Take the fields of a dataclass that hold single values out of JSON values.

    Args:
        cls: These fields are ``int``, ``str`` or ``bool``, each alone or with ``None``. An ``int``
            is from 0 to ``LARGEST`` unless its metadata say otherwise (``least``, ``most``).
        content: What was read; fields that have defaults may be missing.
        where: What it is called in messages.

    Raises:
        MosaicDataError: A field is missing, or of another type.
    """
    taken = {}
    for own in fields(cls):
        name, allowed = own.name, get_args(own.type) or (own.type,)
        if not {*allowed} <= {*_KINDS, NoneType}:
            continue
        if name not in content:
            if own.default is MISSING:
                raise damaged(f"{where} has no {name}")
            continue
        value = content.pop(name)
        if type(value) not in allowed:
            kinds = " or ".join(_KINDS[kind] for kind in allowed if kind in _KINDS)
            raise damaged(f"{where} has {name} = {shown(value)}, not {kinds}")
        least, most = own.metadata.get("least", 0), own.metadata.get("most", LARGEST)
        if type(value) is int and not least <= value <= most:
            raise damaged(f"{where} has {name} = {shown(value)}, which is out of range")
        taken[name] = value
    return taken


def refuse_unknown(content: Iterable[str], known: Collection[str], where: str) -> None:
    """Raise MosaicDataError if an object has a field that is not among the known ones."""
    for name in content:
        if name not in known:
            raise damaged(f"{where} has a field {shown(name)}, which this release does not know")


def read_list(content: object, where: str) -> list[Any]:
    """A list.

    Raises:
        MosaicDataError: It is something else.
    """
    if not isinstance(content, list):
        raise damaged(f"{where} is {shown(content)}, not a list")
    return content


def damaged(what: str) -> MosaicDataError:
    """The error for a saved state that cannot be used."""
    return MosaicDataError(
        f"the saved data position cannot be used: {what}; load an earlier checkpoint, or use the "
        f"release that wrote it"
    )


def shown(value: object) -> str:
    """A value from outside, as a message shows it: short, and on one line."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > 10**_SHOWN:
        return "a huge number"
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return repr(text) if isinstance(value, str) else text


def _checksum(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
