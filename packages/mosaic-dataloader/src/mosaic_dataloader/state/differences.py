"""What keeps a saved position from fitting the present run, in words."""

from collections.abc import Collection, Mapping
from typing import Any

from mosaic_dataloader.state.position import Position


def differences(saved: Position, now: Position, *, open_options: Collection[str]) -> list[str]:
    """List what differs between a saved position and the present data and options.

    Paths and stream names do not count: a bucket may move and a stream may be renamed.

    Args:
        saved: The position from a checkpoint.
        now: The position that the present run would save.
        open_options: Options that the user left open; the saved value is taken for them.

    Returns:
        One clause for each difference; empty where the run can continue.
    """
    return [
        *_packing_differences(saved.packing_lanes, now.packing_lanes, open_options),
        *_option_differences(saved.order, now.order, open_options),
        *_row_differences(saved.rows, now.rows),
        *_stream_differences(saved.streams, now.streams),
    ]


def _option_differences(
    saved: Mapping[str, Any], now: Mapping[str, Any], open_options: Collection[str]
) -> list[str]:
    found = []
    method_changed = saved.get("batching_method") != now.get("batching_method")
    for name, value in now.items():
        before = saved.get(name)
        if before == value or name in open_options:
            continue
        if name in ("device_unit", "unit_nodes") or (name == "unit" and method_changed):
            # Follows from the layout; a device's part is cut as the first run cut it.
            continue
        if name == "unit":
            found.append(
                f"the global batch size was {before} and is now {value}, and "
                f"batching_method = {now['batching_method']!r} orders data by it"
            )
        else:
            found.append(f"{name} was {before!r} and is now {value!r}")
    return found


def _packing_differences(
    saved: int | None, now: int | None, open_options: Collection[str]
) -> list[str]:
    if (saved is None) != (now is None):
        words = {True: "off", False: "on"}
        return [f"packing was {words[saved is None]} and is now {words[now is None]}"]
    if saved == now or "packing_lanes" in open_options:
        return []
    return [f"packing_lanes was {saved} and is now {now}"]


def _row_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} was {saved.get(name)!r} and is now {value!r}"
        for name, value in now.items()
        if saved.get(name) != value
    ]


def _stream_differences(
    saved: tuple[Mapping[str, Any], ...], now: tuple[Mapping[str, Any], ...]
) -> list[str]:
    if len(saved) != len(now):
        before = ", ".join(str(s["name"]) for s in saved)
        after = ", ".join(str(s["name"]) for s in now)
        return [f"the streams were {before} and are now {after}"]
    found = []
    for old, new in zip(saved, now, strict=True):
        if old["digest"] != new["digest"]:
            found.append(
                f'the data of stream "{new["name"]}" changed ({old["samples"]:,} samples in '
                f"{old['shards']:,} shards before, {new['samples']:,} in {new['shards']:,} now)"
                if (old["samples"], old["shards"]) != (new["samples"], new["shards"])
                else f'the data of stream "{new["name"]}" changed (as many samples and shards as '
                f"before, other content)"
            )
        elif old["choose"] != new["choose"]:
            found.append(
                f'stream "{new["name"]}" gave {old["choose"]:,} samples an epoch and now gives '
                f"{new['choose']:,}"
            )
    return found
