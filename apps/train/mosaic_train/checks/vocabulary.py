"""Does the tokenizer's vocabulary fit into the model's embedding?"""

from typing import TYPE_CHECKING, Any

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_vocabulary(config: "MosaicJobConfig", model: ChosenModel) -> Any:
    """Load the tokenizer and compare it with the model.

    Returns:
        What `build_mosaic_tokenizer` returned; None if the configuration names no tokenizer.

    Raises:
        MosaicDataError: The tokenizer cannot be loaded.
        TrainError: It has ids that the model does not embed.
    """
    tokenizer = model.spec.build_tokenizer_fn(config)
    if tokenizer is None:  # rows of token ids need none
        return None
    embedded = getattr(model.args, "vocab_size", None)
    # Ids may have gaps, so that the largest can exceed the number of entries.
    needed = max(tokenizer.tokenizer.get_vocab().values()) + 1
    if embedded is not None and needed > embedded:
        large = [
            f"{name} has {args.vocab_size}"
            for name, args in model.flavors.items()
            if getattr(args, "vocab_size", 0) >= needed
        ]
        raise TrainError(
            f"tokenizer {config.mosaic_tokenizer.name!r} has a vocabulary of {needed}, but "
            f"{model.name} embeds only {embedded}: choose a smaller tokenizer "
            f"(mosaic_tokenizer.name) or a flavor that embeds more"
            + (f" ({', '.join(large[:3])})" if large else "")
        )
    return tokenizer
