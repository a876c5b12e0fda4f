"""TorchTitan's `JobConfig` with the mosaic sections."""

from dataclasses import dataclass, field

from torchtitan.config import JobConfig

from mosaic_config.sections import MosaicDataloader, MosaicPrepare, MosaicTokenizer


@dataclass
class MosaicJobConfig(JobConfig):
    """Every section of TorchTitan's `JobConfig`, and what mosaicml-streaming data needs."""

    mosaic_dataloader: MosaicDataloader = field(default_factory=MosaicDataloader)
    """Training data."""

    mosaic_validation_dataloader: MosaicDataloader = field(default_factory=MosaicDataloader)
    """Validation data; used when validation.enable is set."""

    mosaic_tokenizer: MosaicTokenizer = field(default_factory=MosaicTokenizer)
    """Tokenizer for text columns."""

    mosaic_prepare: MosaicPrepare = field(default_factory=MosaicPrepare)
    """Data that is built once, before training."""
