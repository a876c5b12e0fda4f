"""`[mosaic_prepare]`: data that is made once, before training."""

from typing import TYPE_CHECKING

from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def prepare_data(config: "MosaicJobConfig") -> None:
    """Prepare what the configuration asks for; a no-op when it is there already.

    Every rank of several may call this: one prepares, the others wait.

    Raises:
        TrainError: The section is incomplete or contradicts another.
        MosaicDataError: It cannot be prepared.
    """
    section = config.mosaic_prepare
    if section.input is None:
        if section.output is not None or section.train_tokenizer is not None:
            raise TrainError(
                "mosaic_prepare.input is missing: set it to 'python-stdlib' or a glob of text "
                "files, or remove the section [mosaic_prepare]"
            )
        return
    if section.output is None:
        raise TrainError("mosaic_prepare.output is missing: set it to a directory for the shards")
    if section.train_tokenizer not in (None, config.mosaic_tokenizer.name):
        raise TrainError(
            f"mosaic_prepare.train_tokenizer is {section.train_tokenizer!r}, but "
            f"mosaic_tokenizer.name is {config.mosaic_tokenizer.name!r}: training needs the "
            "tokenizer that the data is made with, so set both to the same directory"
        )
    if section.train_tokenizer is None and config.mosaic_tokenizer.name is None:
        raise TrainError(
            "mosaic_prepare needs a tokenizer: set mosaic_tokenizer.name, or "
            "mosaic_prepare.train_tokenizer to train one"
        )

    from mosaic_dataloader.prepare import PrepareOptions, prepare

    prepare(
        PrepareOptions(
            input=section.input,
            output=section.output,
            seq_len=section.seq_len or config.training.seq_len,
            train_tokenizer=section.train_tokenizer,
            vocab_size=section.vocab_size,
            tokenizer=config.mosaic_tokenizer.name if section.train_tokenizer is None else None,
            tokenizer_kwargs=config.mosaic_tokenizer.kwargs,
        )
    )
