"""From documents to MDS shards, ready for training; on the command line `mosaic-prepare`."""

from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.run import PrepareReport, prepare

__version__ = "0.1.0"

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]
