"""What is wrong with the data, or costs something, before the first step: for every trainer.

Each check returns lines, none where all is well. Those of a *mistake* say why training would fail,
or train on something else than intended; those of a *cost* say what training would waste. Options
are named as in the Python API; a caller with options of its own passes `OptionNames`, as in
`OptionNames(dataset="mosaic_dataloader.dataset.", seq_len="training.seq_len")`.
"""

from mosaic_dataloader.checks.caches import full_caches, slow_caches, unwritable_caches
from mosaic_dataloader.checks.epochs import documents_per_lane, short_epoch
from mosaic_dataloader.checks.filesystems import network_filesystem
from mosaic_dataloader.checks.locality import machines_per_shard
from mosaic_dataloader.checks.mixture import mixture_shares
from mosaic_dataloader.checks.names import OptionNames
from mosaic_dataloader.checks.repeats import many_repeats, too_many_repeats
from mosaic_dataloader.checks.rows import row_lengths
from mosaic_dataloader.checks.vocabulary import first_samples

__all__ = [
    "OptionNames",
    "documents_per_lane",
    "first_samples",
    "full_caches",
    "machines_per_shard",
    "many_repeats",
    "mixture_shares",
    "network_filesystem",
    "row_lengths",
    "short_epoch",
    "slow_caches",
    "too_many_repeats",
    "unwritable_caches",
]
