"""Samples by number: token rows out of Mosaic streams."""

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import DatasetOptions, from_arguments, with_option_texts
from mosaic_dataloader.order.mixture import Mixture, StreamSize, TokenMean
from mosaic_dataloader.order.skip import parse_skip
from mosaic_dataloader.order.stage_options import StageConfig, parse_stages
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer, eos_token_id, pad_token_id
from mosaic_dataloader.reading.documents import DocumentReader
from mosaic_dataloader.reading.manifest import check_prepared
from mosaic_dataloader.reading.positions import Boundaries
from mosaic_dataloader.reading.rows import RowReader
from mosaic_dataloader.reading.token_means import estimated_mean, known_mean, measured_mean
from mosaic_dataloader.state.identity import DataIdentity
from mosaic_dataloader.storage.cache import check_cache_limit
from mosaic_dataloader.storage.document_ends import ends_column
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.storage.streams import DataStream, open_streams, warn_at_start
from mosaic_dataloader.util import arguments
from mosaic_dataloader.util.arguments import parse_count
from mosaic_dataloader.util.own_folder import default_cache_dir

if TYPE_CHECKING:
    from streaming import Stream

logger = logging.getLogger(__name__)


class StreamingTextDataset:
    """Token rows from one or more Mosaic streams, by random access.

    Construction reads the streams' indexes (fetching those that are remote) and checks them. No
    order is decided here: the dataloader does that, from this data set's options. Options that
    share a name with mosaicml-streaming's ``StreamingDataset`` mean the same.

    Where ``skip`` leaves out positions, batches keep their size: each holds the next samples that
    are not left out. With batches of 4, ``["10:14"]`` makes the third batch of positions 8, 9, 14
    and 15. The option may change from one resume to the next; what it says of positions that the
    run has passed has no effect. With ``packing`` the documents of rows that are left out are read,
    since where the next row begins depends on their lengths; otherwise nothing of them is read or
    fetched.

    Where the run ends is not known here: `mosaic_dataloader.checks.too_many_repeats` compares a
    run of so many steps with ``max_repeats``.

    Args:
        tokenizer: Encodes ``text`` columns; a ``transformers`` tokenizer, a
            ``tokenizers.Tokenizer`` or a wrapper with one at ``.tokenizer``. May be None where all
            streams hold ``tokens``.
        seq_len: Tokens in a row, T.
        streams: A mapping of names to stream options (``remote``, ``local``, ``split``,
            ``proportion``, ``repeat``, ``choose``, ``max_repeats``, ``download_retry``,
            ``download_timeout``, ``validate_hash``, ``keep_zip``), or a list of
            ``streaming.Stream``. Not modified.
        stages: A mixture that changes during the run, in place of an order of epochs: a list of
            mappings, each with ``weights``, the weight of each stream by its name, and, but for the
            last one, its length as ``samples`` or ``tokens``, a number or ``"2T"``. With
            ``packing`` samples are documents. A length is rounded up to a multiple of the canonical
            nodes. In every 65,536 samples of a canonical node, each stream has exactly its share. A
            stream is drawn from epoch by epoch, and continues in later stages where it was. Needs
            ``batching_method = "random"``, and no other weights.
        vocab_size: Token ids that the model embeds. A batch with one beyond them, or a negative
            one, raises an error that names stream, shard, sample and id, in place of an index error
            in the model. None, where the model is not known, refuses only negative ids.
        {options}

    Raises:
        MosaicDataError: An option or the data cannot be used; the message says what to change.
    """

    def __init__(
        self,
        *,
        tokenizer: Any = None,
        seq_len: int,
        streams: Mapping[str, Mapping[str, Any]] | Sequence["Stream"] | None = None,
        remote: str | None = DatasetOptions.remote,
        local: str | None = DatasetOptions.local,
        split: str | None = DatasetOptions.split,
        token_encoding_type: str = DatasetOptions.token_encoding_type,
        epoch_size: int | str | None = DatasetOptions.epoch_size,
        predownload: int | None = DatasetOptions.predownload,
        cache_limit: int | str | None = DatasetOptions.cache_limit,
        cache_dir: str | None = DatasetOptions.cache_dir,
        download_retry: int = DatasetOptions.download_retry,
        download_timeout: float = DatasetOptions.download_timeout,
        validate_hash: str | None = DatasetOptions.validate_hash,
        keep_zip: bool = DatasetOptions.keep_zip,
        allow_unsafe_types: bool = DatasetOptions.allow_unsafe_types,
        on_data_change: str = DatasetOptions.on_data_change,
        shuffle: bool = DatasetOptions.shuffle,
        shuffle_algo: str = DatasetOptions.shuffle_algo,
        shuffle_seed: int = DatasetOptions.shuffle_seed,
        shuffle_block_size: int | None = DatasetOptions.shuffle_block_size,
        num_canonical_nodes: int | None = DatasetOptions.num_canonical_nodes,
        sampling_method: str = DatasetOptions.sampling_method,
        sampling_granularity: int = DatasetOptions.sampling_granularity,
        batching_method: str = DatasetOptions.batching_method,
        packing: bool = DatasetOptions.packing,
        packing_lanes: int | None = DatasetOptions.packing_lanes,
        positions: bool = DatasetOptions.positions,
        mask_boundaries: bool = DatasetOptions.mask_boundaries,
        stages: Sequence[Mapping[str, Any]] | None = None,
        weights_in: str = DatasetOptions.weights_in,
        max_repeats: float | None = DatasetOptions.max_repeats,
        skip: Sequence[str] = DatasetOptions.skip,
        vocab_size: int | None = None,
    ):
        seq_len = arguments.integer("seq_len", seq_len, 1)
        if vocab_size is not None:
            vocab_size = arguments.integer("vocab_size", vocab_size, 1)
        options = from_arguments(DatasetOptions, locals())
        _check_packing(options)
        _check_stage_options(stages, options)
        if bool(streams) == bool(remote or local):
            raise MosaicDataError("give either streams, or remote and/or local")
        self.options = options
        self.skip = parse_skip(skip)
        self.vocab_size = vocab_size
        self.seq_len = seq_len
        cache_dir = arguments.place("cache_dir", cache_dir) if cache_dir else default_cache_dir()
        if "://" in cache_dir:
            raise MosaicDataError(f"cache_dir = {cache_dir!r} must be a directory on this machine")
        self.orders_dir = os.path.join(cache_dir, "orders")
        opened = open_streams(
            streams or {"data": {"remote": remote, "local": local, "split": split}},
            replace(options, split=split if streams else None, cache_dir=cache_dir),
        )
        self._epoch_size = None if epoch_size is None else parse_count("epoch_size", epoch_size)
        # By stream; None for no limit of its own.
        own = streams if isinstance(streams, Mapping) else {}
        limits = {n: float(s["max_repeats"]) for n, s in own.items() if s.get("max_repeats")}
        self.max_repeats = {s.name: limits.get(s.name, options.max_repeats) for s in opened}
        if stages is not None:
            _refuse_weights(opened)
        elif weights_in == "tokens" and not any("proportion" in given_weights(s) for s in opened):
            raise MosaicDataError(
                'weights_in = "tokens" has no meaning without weights: give every stream a '
                "proportion, or give stages; or leave it out"
            )
        self.mixture = _weigh(opened, self._epoch_size, self.options.shuffle_seed)
        check_prepared(opened, tokenizer, seq_len, packing=packing)
        text = [stream.name for stream in opened if stream.column.kind == "text"]
        if text and tokenizer is None:
            raise MosaicDataError(
                f'stream "{text[0]}" holds text; give a tokenizer (in a configuration, set '
                f"mosaic_tokenizer.name)"
            )
        # Streams of tokens need none, and are not held up by one that cannot encode batches.
        self.tokenizer = BatchTokenizer(tokenizer) if text else None
        self.pad_id = pad_token_id(tokenizer)
        self.packing = packing
        self.eos_id = eos_token_id(tokenizer) if packing else None
        if packing and text and self.eos_id is None:
            logger.warning(
                "packing: the tokenizer has no EOS token, so that nothing marks where one document "
                "ends and the next begins; set its eos_token (in a configuration, "
                "mosaic_tokenizer.kwargs.eos_token)"
            )
        self.boundaries = (
            _boundaries(opened, positions, mask_boundaries, eos_token_id(tokenizer), packing)
            if positions or mask_boundaries
            else None
        )
        self.stage_config: StageConfig | None = None
        # Whether the lengths of samples matter for the order.
        self.counts_tokens = weights_in == "tokens"
        if stages is not None:
            parsed = parse_stages(stages, [stream.name for stream in opened])
            self.stage_config = StageConfig(parsed, weights_in)
            self.counts_tokens = self.stage_config.counts_tokens
        self._token_means: dict[int, TokenMean] = {}
        self.cache_limit = None if cache_limit is None else check_cache_limit(opened, cache_limit)
        self._open(opened, self.cache_limit)

    def _open(
        self, opened: list[DataStream], cache_limit: int | None = None, keeps_open: bool = True
    ) -> None:
        """Open the shards and what reads them; see `ShardStore`."""
        reads_ends = self.boundaries is not None and not self.packing
        self.store = ShardStore(
            opened,
            self.mixture,
            self.seq_len + 1,
            cache_limit,
            keeps_open,
            reads_ends,
            counts_opened=self.options.predownload == 0,
        )
        self.rows = RowReader(
            self.store,
            self.mixture,
            self.seq_len,
            self.tokenizer,
            self.pad_id,
            self.vocab_size,
            self.boundaries,
        )
        self.documents = DocumentReader(self.store, self.tokenizer, self.eos_id)
        self.identity = DataIdentity(
            self.store,
            self.mixture,
            self.tokenizer,
            self.options,
            seq_len=self.seq_len,
            eos_id=self.eos_id,
        )

    @property
    def streams(self) -> list[DataStream]:
        """The opened streams."""
        return self.store.streams

    def weighed(self, means: Sequence[TokenMean]) -> Mixture:
        """The streams, and how many samples an epoch draws from each.

        Args:
            means: Of each stream; none where weights count samples.
        """
        if not means or self.stage_config is not None:
            return self.mixture
        sizes = [mean.millitokens for mean in means]
        return _weigh(self.streams, self._epoch_size, self.options.shuffle_seed, sizes)

    def token_mean(self, number: int, *, read: bool = True) -> TokenMean:
        """Target tokens that a sample of a stream gives, on average.

        By the manifest of `mosaic-prepare`, or else by the sizes in the index where they tell it
        exactly, or else measured on some of its samples. It is the same on every rank.

        Args:
            number: The stream's.
            read: Whether samples may be read for it; otherwise it may be an estimate, as it is
                where nothing counts tokens.

        Raises:
            MosaicDataError: A sample cannot be read.
        """
        if number in self._token_means:
            return self._token_means[number]
        stream = self.streams[number]
        seq_len = None if self.packing else self.seq_len
        found = known_mean(stream, seq_len, adds_eos=self.eos_id is not None)
        if found is None and not (read and self.counts_tokens):
            return estimated_mean(stream, seq_len)
        if found is None:
            first = int(self.mixture.stream_shards[number])
            # Released at the end, and not by a thread later: workers may be forked in a moment.
            with self.store.iterating():
                found = measured_mean(stream, first, self.store, self.documents, seq_len)
        self._token_means[number] = found
        return found

    @cached_property
    def millitokens(self) -> tuple[int, ...]:
        """Tokens of a sample of each stream, about, in thousandths; no more than a row takes."""
        numbers = range(len(self.streams))
        return tuple(self.token_mean(number, read=False).millitokens for number in numbers)

    def __len__(self) -> int:
        """Samples in all streams, each counted once."""
        return self.mixture.num_samples

    def __getitem__(self, index: int) -> torch.Tensor:
        """Token ids of one sample, int64[n], n at most T+1.

        Raises:
            IndexError: There is no such sample.
            MosaicDataError: Its shard cannot be fetched or is damaged.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of {count}")
        return self.rows.sample(index % count)

    def of_stream(self, number: int, mixture: Mixture) -> "StreamingTextDataset":
        """The same open data set, of whose samples an epoch holds those of one stream alone.

        Args:
            number: Which stream; it gives as many samples as in an epoch of all streams.
            mixture: The streams as an epoch of all weighs them.
        """
        alone = object.__new__(type(self))
        alone.__dict__.update(self.__dict__)
        sizes = [
            size if place == number else replace(size, choose=0)
            for place, size in enumerate(mixture.streams)
        ]
        alone.mixture = Mixture(tuple(sizes))
        return alone

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and threads' locks; ``__setstate__`` opens the data again."""
        opened = ("store", "rows", "documents", "identity")
        state = {k: v for k, v in self.__dict__.items() if k not in opened}
        return {**state, "opened": self.streams}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        opened = state.pop("opened")
        self.__dict__.update(state)
        # The limit stays noted by the process that this one works for.
        self._open([replace(s) for s in opened], keeps_open=False)

    def close(self) -> None:
        """Unmap all shards and release all locks."""
        self.store.close()


StreamingTextDataset.__doc__ = with_option_texts(StreamingTextDataset.__doc__, DatasetOptions)


def _boundaries(
    opened: list[DataStream], positions: bool, mask: bool, eos_id: int | None, packing: bool
) -> Boundaries:
    """How documents in a row are separated; warns where nothing separates them.

    Packing knows its documents, and an unpacked row of text is a single one.
    """
    for stream in () if packing else opened:
        # Of every shard, so that a column that cannot be read is refused here.
        stored = all([ends_column(reader, stream.name) is not None for reader in stream.readers])
        if eos_id is None and not stored and stream.column.kind != "text":
            warn_at_start(
                f'stream "{stream.name}": nothing says where the documents in its rows end, so '
                f"that each row counts as one; give a tokenizer that has an EOS token (in a "
                f"configuration, set mosaic_tokenizer.name), or prepare the data with document_ends"
            )
    return Boundaries(positions, mask, eos_id)


def _check_packing(options: DatasetOptions) -> None:
    if options.packing_lanes is not None and not options.packing:
        raise MosaicDataError(
            f"packing_lanes = {options.packing_lanes} has no meaning without packing; set packing "
            f"= true, or leave it out"
        )
    if options.packing and options.batching_method != "random":
        raise MosaicDataError(
            f"packing = true cannot keep batching_method = {options.batching_method!r}: a packed "
            f'row may hold documents of several streams; set batching_method = "random", or '
            f"packing = false"
        )


def _check_stage_options(stages: object, options: DatasetOptions) -> None:
    """See that the options go together with stages, or with an order of epochs."""
    if stages is None:
        if options.on_data_change == "new_stage":
            raise MosaicDataError(
                'on_data_change = "new_stage" has no meaning without stages; give stages, or use '
                '"restart_epoch"'
            )
        return
    for name in ("epoch_size", "sampling_method", "sampling_granularity"):
        value = getattr(options, name)
        if value != getattr(DatasetOptions, name):
            raise MosaicDataError(
                f"{name} = {value!r} has no meaning with stages, in which every sample of a stream "
                f"is seen; leave it out"
            )
    if options.batching_method != "random":
        raise MosaicDataError(
            f'stages need batching_method = "random", not {options.batching_method!r}'
        )
    if options.on_data_change == "restart_epoch":
        raise MosaicDataError(
            'on_data_change = "restart_epoch" has no meaning with stages; use "new_stage"'
        )


def _refuse_weights(opened: list[DataStream]) -> None:
    for stream in opened:
        for weight in given_weights(stream):
            raise MosaicDataError(
                f'stream "{stream.name}" has {weight}, and stages give the weights; remove it'
            )


def _weigh(
    opened: list[DataStream],
    epoch_size: int | None,
    seed: int,
    millitokens: Sequence[int] | None = None,
) -> Mixture:
    """Resolve proportion, repeat, choose and epoch_size, by mosaicml-streaming's own rules.

    Args:
        opened: The streams.
        epoch_size: Samples of an epoch; None unless given.
        seed: Decides which streams get the samples that rounding leaves over.
        millitokens: Mean tokens of a sample of each stream, where proportions count tokens.
    """
    from streaming import Stream

    _check_weights(opened, epoch_size)
    # Copies, in which mosaicml-streaming notes what it derives.
    streams = [copy.copy(s.stream) for s in opened]
    for stream, size in zip(streams, millitokens or (), strict=False):
        stream.proportion = stream.proportion / size
    samples = np.array([s.samples for s in opened], np.int64)
    try:
        # Of weights that leave no sample, the line below says it; numpy would warn of 0 / 0.
        with np.errstate(invalid="ignore"):
            Stream.apply_weights(streams, samples, epoch_size, seed)
    except (ValueError, OverflowError) as error:
        raise MosaicDataError(f"the streams' weights do not fit together: {error}") from error
    sizes = [
        StreamSize(s.name, np.array([len(r) for r in s.readers], np.int64), int(own.choose))
        for s, own in zip(opened, streams, strict=True)
    ]
    mixture = Mixture(tuple(sizes))
    if mixture.epoch_samples < 1:
        raise MosaicDataError("the streams' weights leave no sample in an epoch; raise them")
    for data, one in zip(opened, sizes, strict=True):
        if not one.choose:
            kind, weight = next(iter(given_weights(data).items()))
            warn_at_start(
                f'stream "{data.name}" gives no sample to an epoch: {kind} = {weight:g}, of '
                f"{one.samples:,} samples; raise it, or remove the stream"
            )
    return mixture


def given_weights(data: DataStream) -> dict[str, float]:
    """The weights of a stream that were given."""
    all_three = {key: getattr(data.stream, f"_{key}") for key in ("proportion", "repeat", "choose")}
    return {key: value for key, value in all_three.items() if value is not None}


def _check_weights(opened: list[DataStream], epoch_size: int | None) -> None:
    """See that the weights of the streams go together (mosaicml-streaming's rules)."""
    relative = [s.name for s in opened if "proportion" in given_weights(s)]
    absolute = [s for s in opened if "proportion" not in given_weights(s)]
    if relative and absolute:
        has = next(iter(given_weights(absolute[0])), "no proportion")
        raise MosaicDataError(
            f'stream "{absolute[0].name}" has {has}, but stream "{relative[0]}" has proportion; '
            f"give every stream a proportion, or none"
        )
    if relative and not any(given_weights(s)["proportion"] for s in opened):
        raise MosaicDataError(
            "the streams' proportions are all 0; give at least one stream more than 0"
        )
    counted = [s for s in absolute if given_weights(s)]
    if counted and epoch_size is not None:
        raise MosaicDataError(
            f'epoch_size cannot be kept: stream "{counted[0].name}" has '
            f"{next(iter(given_weights(counted[0])))}, which fixes a number of samples; remove one "
            f"of them"
        )
