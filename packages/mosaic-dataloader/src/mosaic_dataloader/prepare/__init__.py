"""From text files to MDS shards of token rows, ready for training.

`prepare` is safe to call any number of times, by any number of processes at once: the first does
the work, the others wait, and whoever comes later finds it done.
"""

from mosaic_dataloader.prepare.options import PrepareOptions, PrepareReport
from mosaic_dataloader.prepare.run import prepare

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]
