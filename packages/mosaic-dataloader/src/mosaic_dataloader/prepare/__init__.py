"""From documents to MDS shards, ready for training; on the command line `mosaic-prepare`.

`prepare` is safe to call any number of times, by any number of processes at once: the first does
the work, the others wait, and whoever comes later finds it done. A call that was interrupted goes
on where it stopped.
"""

from mosaic_dataloader.prepare.options import PrepareOptions
from mosaic_dataloader.prepare.report import PrepareReport
from mosaic_dataloader.prepare.run import prepare

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]
