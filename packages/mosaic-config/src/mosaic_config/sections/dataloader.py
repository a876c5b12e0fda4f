"""`[mosaic_dataloader]` and `[mosaic_validation_dataloader]`."""

from dataclasses import dataclass, field
from typing import Literal

from mosaic_config.sections.dataset import MosaicDataset


@dataclass
class MosaicDataloader:
    """How batches are built. Batch size and row length are TorchTitan's own `[training]` keys."""

    name: Literal["text"] = "text"
    """Kind of loader. "text" (rows of tokens for a language model) is the only one."""

    num_workers: int = 0
    """
    Worker processes per rank. 0: a thread of the training process builds the batches, which is the
    faster choice for tokenized data.
    """

    prefetch_factor: int | None = None
    """
    Batches that each worker builds ahead, or the thread where there are no workers; at least 1.
    None: 2 for each worker; for the thread as many as fit into 16 MiB, but 2 to 16.
    """

    pin_memory: bool = False
    """Whether batches are put in page-locked memory, from which copies to a GPU are faster."""

    persistent_workers: bool = False
    """Whether workers stay between iterations. Needs num_workers > 0."""

    drop_last: bool = True
    """
    Whether a finite training iteration leaves out a last batch that is not full. Training itself
    does not end with an epoch, and validation always uses every sample.
    """

    skip_samples: int = 0
    """
    Samples of the order that a new run leaves out at its start, over all ranks together. It is for
    runs without a checkpoint: a loaded data position counts from the beginning of the order and
    wins, so that nothing is skipped twice. With packing, these are documents. Not for validation.
    """

    dataset: MosaicDataset = field(default_factory=MosaicDataset)
    """Which samples, and in which order."""
