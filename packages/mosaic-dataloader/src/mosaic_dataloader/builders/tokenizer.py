"""A transformers tokenizer behind TorchTitan's tokenizer interface."""

from collections.abc import Sequence
from typing import Any

from mosaic_dataloader.builders.options import as_options, section
from mosaic_dataloader.builders.pretrained import load_pretrained
from mosaic_dataloader.errors import MosaicDataError


class MosaicTokenizer:
    """TorchTitan's tokenizer interface around a ``transformers`` tokenizer.

    Args:
        tokenizer: The tokenizer to wrap; kept at ``.tokenizer``.

    Attributes:
        bos_id: Id of the token that begins a document, or None.
        eos_id: Id of the token that ends one, or None.
        pad_id: Id of the padding token, or None.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.bos_id: int | None = tokenizer.bos_token_id
        self.eos_id: int | None = tokenizer.eos_token_id
        self.pad_id: int | None = tokenizer.pad_token_id

    def encode(self, text: str, add_bos: bool = True, add_eos: bool = True) -> list[int]:
        """Token ids of one text.

        Args:
            text: The text.
            add_bos: Begin with the BOS token, if the tokenizer has one.
            add_eos: End with the EOS token, if the tokenizer has one.
        """
        ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        if add_bos and self.bos_id is not None:
            ids.insert(0, self.bos_id)
        if add_eos and self.eos_id is not None:
            ids.append(self.eos_id)
        return ids

    def decode(self, ids: Sequence[int], **options: Any) -> str:
        """The text of token ids; ``options`` are those of ``transformers``."""
        return str(self.tokenizer.decode(ids, **options))

    def get_vocab_size(self) -> int:
        """Embeddings that the tokenizer needs: its highest token id plus one."""
        return int(max(self.tokenizer.get_vocab().values())) + 1


def build_mosaic_tokenizer(job_config: Any) -> MosaicTokenizer | None:
    """Build the tokenizer of ``[mosaic_tokenizer]``.

    ``name`` is a directory or a name on the Hugging Face hub; ``kwargs`` go to
    ``AutoTokenizer.from_pretrained``. Code from the hub is run only with
    ``trust_remote_code = true`` among them.

    Args:
        job_config: Read by attribute: ``mosaic_tokenizer.name``, ``mosaic_tokenizer.kwargs``.

    Returns:
        The tokenizer, or None where no name is set: tokenized data need none.

    Raises:
        MosaicDataError: The tokenizer cannot be loaded.
    """
    options = as_options(section(job_config, "mosaic_tokenizer"))
    name = options.get("name")
    if not name:
        return None
    try:
        tokenizer = load_pretrained(name, options.get("kwargs", {}))
    except MosaicDataError as error:
        raise MosaicDataError(
            f"tokenizer {name!r} cannot be loaded ({error}); correct mosaic_tokenizer.name"
        ) from error
    return MosaicTokenizer(tokenizer)
