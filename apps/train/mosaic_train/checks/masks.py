"""Can attention tell documents apart, where the model is to do so?"""

from typing import TYPE_CHECKING, Any

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_document_masks(config: "MosaicJobConfig", model: ChosenModel, tokenizer: Any) -> None:
    """See that TorchTitan can make the masks that the flavor's attention takes.

    Args:
        config: The configuration.
        model: The model that it names.
        tokenizer: What the tokenizer builder returned; None if the configuration names none.

    Raises:
        TrainError: There is no tokenizer, or it has no token that ends a document.
    """
    attention = getattr(model.args, "attn_type", "sdpa")
    if attention not in ("flex", "varlen"):
        return
    if tokenizer is None:
        raise TrainError(
            f"{model.name} uses {attention} attention, whose masks TorchTitan makes with the "
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
