"""`[mosaic_prepare]`: data that is made once, before training."""

from typing import TYPE_CHECKING

from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def prepare_data(config: "MosaicJobConfig") -> None:
    """Prepare what the configuration asks for; a no-op when it is there already.

    Every rank of several may call this: one prepares, the others wait.

    Raises:
        TrainError: The section contradicts another.
        MosaicDataError: It cannot be prepared.
    """
    section = config.mosaic_prepare
    if not section.input or not section.output:  # the configuration has both or neither
        if section.train_tokenizer:
            raise TrainError(
                "mosaic_prepare.train_tokenizer is set, but there is no mosaic_prepare.input to "
                "train it on: add input and output, or remove train_tokenizer"
            )
        return
    if section.train_tokenizer and section.train_tokenizer != config.mosaic_tokenizer.name:
        raise TrainError(
            f"mosaic_prepare.train_tokenizer is {section.train_tokenizer!r}, but "
            f"mosaic_tokenizer.name is {config.mosaic_tokenizer.name!r}: training needs the "
            "tokenizer that the data is made with, so set both to the same directory"
        )

    from mosaic_dataloader.prepare import PrepareOptions, prepare

    prepare(
        PrepareOptions(
            input=section.input,
            output=section.output,
            seq_len=section.seq_len or config.training.seq_len,
            train_tokenizer=section.train_tokenizer or None,
            vocab_size=section.vocab_size,
            tokenizer=None if section.train_tokenizer else config.mosaic_tokenizer.name,
            tokenizer_kwargs=config.mosaic_tokenizer.kwargs,
        )
    )
