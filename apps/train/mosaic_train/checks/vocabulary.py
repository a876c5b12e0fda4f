"""Does the model embed the tokenizer's token ids, and those that the data holds?"""

import os
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.model import ChosenModel
from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError
from mosaic_train.spec import vocabulary_of

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# First shards that are fetched for a look at their rows take no more than this together.
_FETCHED_BYTES = 256 << 20


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
    embedded = vocabulary_of(model.args)
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


def check_first_rows(dataset: Any, vocab_size: int | None, report: Report) -> set[str]:
    """Compare the first rows of each stream with the model's vocabulary.

    A stream whose first shard is not on this machine is left out where fetching all of these would
    take long; its rows are looked at as they are trained on.

    Args:
        dataset: An opened `StreamingTextDataset`.
        vocab_size: Token ids that the model embeds; None where that is not known.
        report: Where the mistakes go, one for each stream.

    Returns:
        Names of the streams that were refused: what else their rows seem to be means nothing.
    """
    from mosaic_dataloader.reading.vocabulary import check_first_samples

    refused: set[str] = set()
    may_fetch = _FETCHED_BYTES
    for number, stream in enumerate(dataset.streams):
        if stream.column.kind == "text":
            continue
        reader = stream.readers[0]
        if not os.path.exists(os.path.join(stream.directory, reader.file_pairs[-1][0].basename)):
            size = int(reader.get_raw_size())
            if size > may_fetch:
                continue
            may_fetch -= size
        before = len(report.errors)
        report.attempt(check_first_samples, dataset.store, dataset.mixture, number, vocab_size)
        if len(report.errors) > before:
            refused.add(stream.name)
    return refused
