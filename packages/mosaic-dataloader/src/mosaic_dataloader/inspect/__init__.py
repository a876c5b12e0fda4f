"""What a data set holds, and what a run trains on: printed and drawn, for every trainer.

`print_run` shows the streams, the run and the rows of a step; `mixture_tree` is its mixture alone;
`preview` yields the rows that a loader will hand out. On the command line, `mosaic-inspect` shows
any MDS data set. The names are loaded when first used, so that the command starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_dataloader.inspect.forecasts import Forecast, forecast, forecast_lines
    from mosaic_dataloader.inspect.mixture import mixture_tree
    from mosaic_dataloader.inspect.previews import origins, preview, stream_counts
    from mosaic_dataloader.inspect.run import print_run
    from mosaic_dataloader.inspect.steps import Steps
    from mosaic_dataloader.inspect.tables import run_facts, run_lines, stream_table

__all__ = [
    "Forecast",
    "Steps",
    "forecast",
    "forecast_lines",
    "mixture_tree",
    "origins",
    "preview",
    "print_run",
    "run_facts",
    "run_lines",
    "stream_counts",
    "stream_table",
]

_MODULES = {
    "forecasts": ("Forecast", "forecast", "forecast_lines"),
    "mixture": ("mixture_tree",),
    "previews": ("origins", "preview", "stream_counts"),
    "run": ("print_run",),
    "steps": ("Steps",),
    "tables": ("run_facts", "run_lines", "stream_table"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
