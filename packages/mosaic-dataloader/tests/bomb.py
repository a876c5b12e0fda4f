"""Reads data sets in a process of its own; prints each one's error and the memory that it took.

Usage: bomb.py CACHE STORE...
"""

import resource
import sys

from mosaic_dataloader import MosaicDataError, MosaicParallelAwareDataloader, StreamingTextDataset


def read(store: str, cache: str) -> None:
    stream = {"remote": store, "download_retry": 0}
    dataset = StreamingTextDataset(seq_len=16, streams={"web": stream}, cache_dir=cache)
    loader = MosaicParallelAwareDataloader(
        dataset, dp_rank=0, dp_world_size=1, batch_size=2, infinite=False
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        print(len(list(loader)), "batches")
    except MosaicDataError as error:
        print(error)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    loader.close()


for place in sys.argv[2:]:
    read(place, sys.argv[1])
