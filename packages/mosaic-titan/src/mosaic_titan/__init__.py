"""MosaicML Streaming data in torchtitan 0.3: components, and an override that puts them in."""

from mosaic_titan.components import (
    MosaicDataLoader,
    MosaicMetricsProcessor,
    MosaicTokenizer,
    MosaicValidator,
    use_mosaic,
)

__version__ = "0.1.0"

__all__ = [
    "MosaicDataLoader",
    "MosaicMetricsProcessor",
    "MosaicTokenizer",
    "MosaicValidator",
    "use_mosaic",
]
