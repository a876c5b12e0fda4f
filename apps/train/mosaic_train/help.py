"""`--help`: how to use the command, and where its options are."""

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from mosaic_train.arguments import USAGE, Arguments

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# TorchTitan does not say what its sections are for.
SECTIONS = {
    "mosaic_dataloader": "training data: streams, their mixture and order, workers",
    "mosaic_validation_dataloader": "the same for validation data",
    "mosaic_tokenizer": "the tokenizer: a directory, or a name on the Hugging Face hub",
    "mosaic_prepare": "data that are made once, before training",
    "job": "folder for what a run writes",
    "model": "which model, in which size",
    "training": "batch sizes, row length, steps, precision",
    "optimizer": "Adam or AdamW and its rates",
    "lr_scheduler": "warmup and decay of the learning rate",
    "parallelism": "how ranks share the model: FSDP, HSDP, TP, PP, CP, EP",
    "checkpoint": "when to save, what to load",
    "validation": "whether, how often and on how many steps",
    "metrics": "logs, TensorBoard, Weights & Biases",
    "activation_checkpoint": "compute again what memory has no room for",
    "compile": "torch.compile",
    "quantize": "float8 and MX formats",
    "comm": "timeouts, traces, and dry runs without communication",
    "profiling": "traces of GPU activity, memory snapshots",
    "memory_estimation": "TorchTitan's estimate of peak memory",
    "fault_tolerance": "TorchFT's replica groups",
    "experimental": "a module of your own that registers a model",
    "debug": "seed, determinism",
}


def print_help(arguments: Arguments) -> None:
    """Print what is asked for.

    Raises:
        ConfigError: There is no such section, or the file has a mistake.
    """
    from mosaic_config import MosaicConfigManager, MosaicJobConfig

    if arguments.help_section:
        MosaicConfigManager().print_section(arguments.help_section, arguments.config_args)
        return
    print(USAGE, flush=True)
    if arguments.help_all:
        with contextlib.suppress(SystemExit):  # the parser ends with that
            MosaicConfigManager().parse_args([*arguments.config_args, "--help"])
        return
    print("Sections, and how many options each has:\n")
    for name, count in _sections(MosaicJobConfig).items():
        print(f"  {name:<29} {count:>3}  {SECTIONS.get(name, '')}".rstrip())
    print(
        "\nExamples:\n\n"
        "  uv run apps/train --help training\n"
        "  uv run apps/train --config-path apps/train/configs/debug.toml --training.steps 160"
    )


def _sections(root: "type[MosaicJobConfig]") -> dict[str, int]:
    """Names in the order of the table above, with the number of their options."""
    names = [field.name for field in dataclasses.fields(root)]
    names.sort(key=lambda name: list(SECTIONS).index(name) if name in SECTIONS else len(SECTIONS))
    types = {field.name: field.type for field in dataclasses.fields(root)}
    return {name: _count(types[name]) for name in names}


def _count(section: object) -> int:
    if not isinstance(section, type) or not dataclasses.is_dataclass(section):
        return 1
    return sum(_count(field.type) for field in dataclasses.fields(section))
