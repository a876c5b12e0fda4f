"""A config function of a user's own, with the components in it."""

import os

from torchtitan.models.llama3.config_registry import llama3_debugmodel
from torchtitan.trainer import Trainer

from mosaic_titan import MosaicDataLoader, MosaicMetricsProcessor, MosaicTokenizer, MosaicValidator


def packed() -> Trainer.Config:
    documents = os.environ["TITAN_TEST_DATA"] + "/documents"
    config = llama3_debugmodel()
    config.tokenizer = MosaicTokenizer.Config()
    config.metrics = MosaicMetricsProcessor.Config(log_freq=1)
    config.dataloader = MosaicDataLoader.Config(
        streams={"documents": {"local": documents}},
        shuffle=True,
        packing=True,
        packing_lanes=4,
        mask_boundaries=True,
    )
    config.validator = MosaicValidator.Config(
        enable=True,
        steps=-1,
        dataloader=MosaicDataLoader.Config(local=documents, packing=True, packing_lanes=4),
    )
    return config
