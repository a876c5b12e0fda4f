"""Where a rank's batches come from; which of the two sources it is, is decided here alone."""

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.order.batches import Layout
from mosaic_dataloader.sources.packed import PackedRows
from mosaic_dataloader.sources.samples import SampleRows
from mosaic_dataloader.state.progress import RunOrder

# Rows that are samples, or rows packed of documents. Both have the same methods, so that nothing
# else asks which of them it is. A source knows the data, the rank and the order of a run; how far
# the run has come is handed in.
BatchSource = SampleRows | PackedRows


def open_source(dataset: StreamingTextDataset, layout: Layout, order: RunOrder) -> BatchSource:
    """The source of a rank's batches.

    Raises:
        MosaicDataError: The ranks do not divide the packing lanes.
    """
    return (PackedRows if dataset.packing else SampleRows)(dataset, layout, order)
