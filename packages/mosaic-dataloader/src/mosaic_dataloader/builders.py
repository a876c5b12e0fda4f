"""TorchTitan's dataloader builders."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.options import DatasetOptions, LoaderOptions
from mosaic_dataloader.reading.pretrained import load_pretrained
from mosaic_dataloader.validation import ValidationDataloader


def section(config: Any, name: str) -> Any:
    """One section of a configuration.

    Raises:
        MosaicDataError: There is no such section.
    """
    found = getattr(config, name, None)
    if found is None:
        raise MosaicDataError(f"the configuration has no [{name}] section")
    return found


def as_options(value: Any) -> dict[str, Any]:
    """A section's options that are set, as a mapping.

    Args:
        value: A dataclass instance, a mapping, or any object with attributes.
    """
    if isinstance(value, Mapping):
        pairs = dict(value)
    elif dataclasses.is_dataclass(value):
        pairs = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    else:
        pairs = dict(vars(value))
    return {key: option for key, option in pairs.items() if option is not None}


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


TRAINING = "mosaic_dataloader"
VALIDATION = "mosaic_validation_dataloader"


def build_mosaic_dataloader(
    *,
    dp_world_size: int,
    dp_rank: int,
    tokenizer: Any,
    job_config: Any,
    vocab_size: int | None = None,
    nodes: int | None = None,
) -> MosaicParallelAwareDataloader:
    """Build the training loader from ``[mosaic_dataloader]`` and ``[training]``.

    Args:
        dp_world_size: Size of the trainer's batch mesh.
        dp_rank: Rank in it.
        tokenizer: Encodes text columns; None where all streams hold tokens.
        job_config: Read by attribute: ``mosaic_dataloader``, ``training.local_batch_size``,
            ``training.seq_len``.
        vocab_size: Token ids that the model embeds, which its arguments know and the configuration
            does not; see ``StreamingTextDataset``.
        nodes: Machines of the run; by default what torchrun says in the environment.

    Raises:
        MosaicDataError: An option or the data cannot be used; the message says what to change.
    """
    training = section(job_config, "training")
    options = as_options(section(job_config, TRAINING))
    dataset = build_dataset(job_config, tokenizer, TRAINING, training.seq_len, vocab_size)
    return MosaicParallelAwareDataloader(
        dataset,
        dp_rank=dp_rank,
        dp_world_size=dp_world_size,
        batch_size=training.local_batch_size,
        num_nodes=num_nodes() if nodes is None else nodes,
        # Not an option of a section: torchtitan's own trainer never ends with an epoch.
        infinite=options.get("infinite", True),
        **_loader_options(options),
    )


def build_mosaic_validation_dataloader(
    *,
    dp_world_size: int,
    dp_rank: int,
    tokenizer: Any,
    job_config: Any,
    vocab_size: int | None = None,
) -> ValidationDataloader:
    """Build the validation loader from ``[mosaic_validation_dataloader]`` and ``[validation]``.

    Every iteration is the same finite pass, with equally many batches on all ranks; the last one
    is padded with rows whose labels are all ignored. Its ``by_stream()`` gives a loader of each
    stream alone.

    Raises:
        MosaicDataError: The section is missing, or an option or the data cannot be used.
    """
    validation = section(job_config, "validation")
    options = as_options(section(job_config, VALIDATION))
    dataset = build_dataset(job_config, tokenizer, VALIDATION, validation.seq_len, vocab_size)
    return ValidationDataloader(
        dataset,
        dp_rank=dp_rank,
        dp_world_size=dp_world_size,
        batch_size=validation.local_batch_size,
        num_nodes=num_nodes(),
        # Refused by name where it is set.
        **_loader_options(options, without="drop_last"),
    )


def build_dataset(
    job_config: Any, tokenizer: Any, name: str, seq_len: int, vocab_size: int | None = None
) -> StreamingTextDataset:
    """Open the data of one loader section, without starting anything.

    Args:
        job_config: The configuration.
        tokenizer: See ``build_mosaic_dataloader``.
        name: ``mosaic_dataloader`` or ``mosaic_validation_dataloader``.
        seq_len: Tokens in a row.
        vocab_size: See ``build_mosaic_dataloader``.

    Raises:
        MosaicDataError: An option or the data cannot be used.
    """
    loader = as_options(section(job_config, name))
    options = as_options(loader.get("dataset", {}))
    if loader.get("name", "text") != "text":
        raise MosaicDataError(f'[{name}] name = {loader["name"]!r} must be "text"')
    streams = {n: as_options(s) for n, s in as_options(options.pop("streams", {})).items()}
    if not streams and not options.get("remote") and not options.get("local"):
        raise MosaicDataError(
            f"[{name}.dataset] names no data; add [{name}.dataset.streams.NAME] with remote and/or "
            f"local"
        )
    longest = options.pop("max_seq_len", None)
    if longest is not None and longest != seq_len:
        trained = "training" if name == TRAINING else "validation"
        raise MosaicDataError(
            f"[{name}.dataset] max_seq_len = {longest} contradicts {trained}.seq_len = {seq_len}; "
            f"make them equal or leave max_seq_len out"
        )
    if options.pop("partition_algo", "relaxed") != "relaxed":
        raise MosaicDataError(
            f'[{name}.dataset] partition_algo must be "relaxed": the order never depends on the '
            f"number of machines"
        )
    stages = options.pop("stages", None)
    known = {field.name for field in dataclasses.fields(DatasetOptions)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise MosaicDataError(f"[{name}.dataset] has no option {unknown[0]!r}")
    return StreamingTextDataset(
        tokenizer=tokenizer,
        seq_len=seq_len,
        streams=streams or None,
        stages=stages or None,
        vocab_size=vocab_size,
        **options,
    )


def num_nodes() -> int:
    """Machines of this run, by torchrun's environment; they set defaults at a run's first start."""
    groups = os.environ.get("GROUP_WORLD_SIZE")
    if groups:
        return int(groups)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, int(os.environ.get("WORLD_SIZE", "1")) // local)


def _loader_options(options: dict[str, Any], without: str = "") -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(LoaderOptions)} - {without}
    return {name: value for name, value in options.items() if name in names}
