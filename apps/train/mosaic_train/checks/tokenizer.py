"""Does the tokenizer go with the model?"""

from typing import TYPE_CHECKING, Any

from mosaic_train.errors import TrainError
from mosaic_trainspec.checks import ChosenModel

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_vocabulary(config: "MosaicJobConfig", model: ChosenModel, tokenizer: Any) -> None:
    """Check that the model embeds all ids of the tokenizer that `mosaic_tokenizer` names."""
    embedded = model.vocab_size
    # Ids may have gaps, so that the largest can exceed the number of entries.
    needed = max(tokenizer.tokenizer.get_vocab().values()) + 1
    if embedded is not None and needed > embedded:
        large = [
            f"{name} has {args.vocab_size}"
            for name, args in model.spec.model_args.items()
            if (getattr(args, "vocab_size", None) or 0) >= needed
        ]
        raise TrainError(
            f"tokenizer {config.mosaic_tokenizer.name!r} has a vocabulary of {needed}, but "
            f"{model.name} embeds only {embedded}: choose a smaller tokenizer "
            f"(mosaic_tokenizer.name) or a flavor that embeds more"
            + (f" ({', '.join(large[:3])})" if large else "")
        )


def check_document_masks(config: "MosaicJobConfig", model: ChosenModel, tokenizer: Any) -> None:
    """Check that TorchTitan can make the masks that the flavor's attention takes.

    It makes them with the tokenizer (None if `mosaic_tokenizer` names none).
    """
    if model.attention not in ("flex", "varlen"):
        return
    if tokenizer is None:
        raise TrainError(
            f"{model.name} uses {model.attention} attention, whose masks TorchTitan makes with the "
            "tokenizer: set mosaic_tokenizer.name to the one that the data is made with"
        )
    if getattr(model.args, "attn_mask_type", "causal") != "block_causal":
        return
    if tokenizer.eos_id is None:
        raise TrainError(
            f"{model.name} keeps documents apart by the EOS token (attn_mask_type is "
            f"block_causal), and tokenizer {config.mosaic_tokenizer.name!r} has none: set "
            "mosaic_tokenizer.kwargs.eos_token to the token that ends documents, or choose "
            "another tokenizer or flavor"
        )
