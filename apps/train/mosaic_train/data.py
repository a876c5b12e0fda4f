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
        return
    if section.train_tokenizer and section.train_tokenizer != config.mosaic_tokenizer.name:
        raise TrainError(
            f"mosaic_prepare.train_tokenizer is {section.train_tokenizer!r}, but "
            f"mosaic_tokenizer.name is {config.mosaic_tokenizer.name!r}: training needs the "
            "tokenizer that the data is made with, so set both to the same directory"
        )

    from mosaic_dataloader.util.arguments import parse_bytes
    from mosaic_prepare import PrepareOptions, prepare

    # The section's names are those of `PrepareOptions`, and so are its defaults.
    options = vars(section) | {
        name: parse_bytes(f"mosaic_prepare.{name}", getattr(section, name))
        for name in ("max_document_bytes", "shard_bytes")
    }
    if section.form == "rows" and section.seq_len is None:
        options["seq_len"] = config.training.seq_len
    if section.form != "text" and not section.train_tokenizer:
        options["tokenizer"] = config.mosaic_tokenizer.name
        options["tokenizer_kwargs"] = config.mosaic_tokenizer.kwargs
    prepare(PrepareOptions(**options))
