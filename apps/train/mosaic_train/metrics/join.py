"""The data loader and the metrics processor of one run, which TorchTitan builds apart."""

import weakref
from collections.abc import Callable
from typing import Any


class DataMetricsJoin:
    """A pair of builders for a TrainSpec: the second knows what the first has built.

    TorchTitan's Trainer builds its data loader first, and tells the metrics processor nothing of
    it.

    Args:
        build_dataloader: The data loader's builder.
        build_metrics_processor: The spec's own metrics processor's builder, whose processor is
            wrapped; None for TorchTitan's.
    """

    def __init__(
        self,
        build_dataloader: Callable[..., Any],
        build_metrics_processor: Callable[..., Any] | None,
    ):
        self._build_dataloader = build_dataloader
        self._build_base = build_metrics_processor
        # Weak: the spec stays registered when the run is over.
        self._loader: weakref.ref[Any] | None = None

    def build_dataloader(self, **options: Any) -> Any:
        """Build the training loader."""
        loader = self._build_dataloader(**options)
        self._loader = weakref.ref(loader)
        return loader

    def build_metrics_processor(
        self, job_config: Any, parallel_dims: Any, *others: Any, **more: Any
    ) -> Any:
        """Build the spec's metrics processor, and add the loader's counts to what it logs."""
        from torchtitan.components.metrics import build_metrics_processor

        from mosaic_train.metrics.processor import DataMetricsProcessor

        build = self._build_base or build_metrics_processor
        base = build(job_config, parallel_dims, *others, **more)
        loader = self._loader() if self._loader else None
        if loader is None:  # a trainer that has no data
            return base
        return DataMetricsProcessor(base, loader, job_config, parallel_dims)
