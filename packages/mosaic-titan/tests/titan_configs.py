"""Config functions of a user's own: one with the components in it, and shorter shipped models."""

import os

from torchtitan.models.deepseek_v3.config_registry import deepseek_v3_debugmodel
from torchtitan.models.llama3.config_registry import llama3_debugmodel
from torchtitan.models.qwen3.config_registry import qwen3_moe_debug
from torchtitan.trainer import Trainer

from mosaic_titan import MosaicDataLoader, MosaicMetricsProcessor, MosaicTokenizer, MosaicValidator


def _shortened(config: Trainer.Config, layers: int = 2) -> Trainer.Config:
    model = config.model_spec.model
    model.layers = model.layers[:layers]
    return config


def llama3() -> Trainer.Config:
    return _shortened(llama3_debugmodel())


def qwen3_moe() -> Trainer.Config:
    return _shortened(qwen3_moe_debug(), layers=1)


def deepseek_v3() -> Trainer.Config:
    return _shortened(deepseek_v3_debugmodel())


def packed() -> Trainer.Config:
    documents = os.environ["TITAN_TEST_DATA"] + "/documents"
    config = llama3()
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
