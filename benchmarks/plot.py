"""One picture of the results: whatever of them is there."""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

OWN, OTHER = "#c0392b", "#7f8c8d"


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write a picture of the benchmarks in ``results`` that have one."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file, letters stay letters.
    matplotlib.rcParams.update({"svg.hashsalt": "mosaic", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    panels = [(name, panel) for name, panel in PANELS.items() if name in results]
    if not panels:
        return
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(6.4 * columns, 3.0 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, panel) in zip(axes.flat, panels, strict=False):
        panel(axis, results[name])
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _hot(axis: Any, found: Mapping[str, Any]) -> None:
    _bars(axis, _medians(found["rates"]), "{:,.0f}")
    axis.set_title("Hot path: rows of 2,049 tokens a second, no workers")


def _text(axis: Any, found: Mapping[str, Any]) -> None:
    _bars(axis, {name: rate / 1e6 for name, rate in _medians(found["rates"]).items()}, "{:.2f}")
    axis.set_title("Raw text: million tokens a second")


def _boundary(axis: Any, found: Mapping[str, Any]) -> None:
    bars = {}
    for name, prefix in (("mosaic-dataloader", ""), ("StreamingDataLoader", "their_")):
        for words, statistic in (("maximum", "1"), ("p99", "0.99")):
            near, away = found[f"{prefix}near"][statistic], found[f"{prefix}away"][statistic]
            bars[f"{name}, {words}"] = near / away
    _bars(axis, bars, "{:.2f}")
    axis.axvline(1.5, color="black", linewidth=0.8, linestyle=":")
    axis.set_title("Epoch's end: waits near it, as a multiple of those away from it")


def _depth(axis: Any, found: Mapping[str, Any]) -> None:
    bars = {f"{f['what']}, {_streams(f)}": f["seconds"] for f in found.get("stored", [])}
    for f in found["feistel"]:
        bars[f"feistel at 400 M of 500 M, {_streams(f)}"] = statistics.median(f["seconds"])
    _bars(axis, bars, "{:.2f}")
    axis.set_xscale("log")
    axis.set_title("Seconds to the first batch; 50 M samples, feistel 500 M")


def _lean(axis: Any, found: Mapping[str, Any]) -> None:
    _bars(axis, _medians(found["seconds"]), "{:.2f}", own="mosaic_dataloader")
    axis.set_title("Start: processor seconds of a process")


def _train(axis: Any, found: Mapping[str, Any]) -> None:
    waits = {
        f"{name}, {step}": 1e6 * wait
        for step, waits in (("5 ms", found["simulated"]), ("CPU step", found["trained"]["waits"]))
        for name, wait in _medians(waits).items()
    }
    _bars(axis, waits, "{:,.0f}")
    axis.set_title("Training: wait for data a step, µs")


PANELS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "hot": _hot,
    "text": _text,
    "boundary": _boundary,
    "depth": _depth,
    "lean": _lean,
    "train": _train,
}


def _streams(figures: Mapping[str, Any]) -> str:
    return "1 stream" if figures["streams"] == 1 else f"{figures['streams']} streams"


def _medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(own) for name, own in figures.items()}


def _bars(
    axis: Any, values: Mapping[str, float], written: str, own: str = "mosaic-dataloader"
) -> None:
    names = list(values)
    colors = [OWN if own in name else OTHER for name in names]
    bars = axis.barh(names, [values[name] for name in names], color=colors)
    axis.bar_label(bars, labels=[written.format(values[name]) for name in names], padding=2)
    axis.invert_yaxis()
    axis.margins(x=0.18)
    axis.spines[["top", "right"]].set_visible(False)
