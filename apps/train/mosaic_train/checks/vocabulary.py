"""Does the tokenizer's vocabulary fit into the model's embedding?"""

from typing import TYPE_CHECKING, Any

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def load_tokenizer(config: "MosaicJobConfig") -> Any:
    """Load the tokenizer.

    Returns:
        What `build_mosaic_tokenizer` returns; None if the configuration names no tokenizer.

    Raises:
        MosaicDataError: It cannot be loaded.
    """
    from mosaic_dataloader import build_mosaic_tokenizer

    return build_mosaic_tokenizer(config)


def check_vocabulary(config: "MosaicJobConfig", model: ChosenModel, tokenizer: Any) -> None:
    """Compare a tokenizer with the model.

    Args:
        config: The configuration.
        model: The model that it names.
        tokenizer: From `load_tokenizer`.

    Raises:
        TrainError: It has ids that the model does not embed.
    """
    embedded = getattr(model.args, "vocab_size", None)
    # Ids may have gaps, so that the largest can exceed the number of entries.
    needed = max(tokenizer.tokenizer.get_vocab().values()) + 1
    if embedded is not None and needed > embedded:
        large = [
            f"{name} has {args.vocab_size}"
            for name, args in model.flavors.items()
            if (getattr(args, "vocab_size", None) or 0) >= needed
        ]
        raise TrainError(
            f"tokenizer {config.mosaic_tokenizer.name!r} has a vocabulary of {needed}, but "
            f"{model.name} embeds only {embedded}: choose a smaller tokenizer "
            f"(mosaic_tokenizer.name) or a flavor that embeds more"
            + (f" ({', '.join(large[:3])})" if large else "")
        )
