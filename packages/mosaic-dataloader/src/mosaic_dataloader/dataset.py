"""Samples by number: token rows out of Mosaic streams."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import DatasetOptions
from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.stage_options import StageConfig, parse_stages
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer, eos_token_id, pad_token_id
from mosaic_dataloader.reading.document_length import tokens_per_stream
from mosaic_dataloader.reading.documents import DocumentReader
from mosaic_dataloader.reading.manifest import check_prepared
from mosaic_dataloader.reading.positions import Boundaries
from mosaic_dataloader.reading.rows import RowReader
from mosaic_dataloader.state.identity import DataIdentity
from mosaic_dataloader.storage.cache import check_cache_limit
from mosaic_dataloader.storage.store import ShardStore, ends_of
from mosaic_dataloader.storage.streams import (
    DataStream,
    StreamDefaults,
    open_streams,
    warn_at_start,
)
from mosaic_dataloader.util import arguments
from mosaic_dataloader.util.arguments import parse_count
from mosaic_dataloader.util.own_folder import own_temporary_folder

if TYPE_CHECKING:
    from streaming import Stream

logger = logging.getLogger(__name__)


def default_cache_dir() -> str:
    """Where caches go that are given no place: a folder of this user's in the temporary directory.

    The temporary directory is on the machine's own disk on most clusters, the home directory is
    not.

    Raises:
        MosaicDataError: What has that folder's name is not this user's alone.
    """
    return own_temporary_folder("mosaic-dataloader", "cache_dir")


class StreamingTextDataset:
    """Token rows from one or more Mosaic streams, by random access.

    Construction reads the streams' indexes (fetching those that are remote) and checks them. No
    order is decided here: the dataloader does that, from this data set's options. Options that
    share a name with mosaicml-streaming's ``StreamingDataset`` mean the same.

    Args:
        tokenizer: Encodes ``text`` columns; a ``transformers`` tokenizer, a
            ``tokenizers.Tokenizer`` or a wrapper with one at ``.tokenizer``. May be None where all
            streams hold ``tokens``.
        seq_len: Tokens in a row, T.
        streams: A mapping of names to stream options (``remote``, ``local``, ``split``,
            ``proportion``, ``repeat``, ``choose``, ``download_retry``, ``download_timeout``,
            ``validate_hash``, ``keep_zip``), or a list of ``streaming.Stream``. Not modified.
        remote: Object store address or directory to fetch from, in place of ``streams``.
        local: Directory that holds the shards, or in which they are cached.
        split: Sub-directory of ``remote`` and ``local``.
        token_encoding_type: Dtype of the token ids in a ``bytes`` column.
        epoch_size: Samples drawn per epoch over all streams, as a number or ``"100k"``; by default
            as many as there are.
        predownload: How many of a rank's samples ahead shards are fetched; by default 8 times the
            batch size, at least 64, and at least 16 shards, or 2 if 16 are more than 256 MiB.
        cache_limit: Bytes that the fetched shards of all streams may take together, as a number or
            ``"100gb"``; least recently used shards are evicted. The smallest limit of all running
            loaders that share a directory holds there. By default there is none.
        cache_dir: Where streams without ``local`` and the orders of long epochs are cached; by
            default a folder of this user's in the temporary directory.
        download_retry: Further attempts after a failed download that may succeed later; what is
            missing or denied fails at once. The pauses between them grow from 1 s to 30 s.
        download_timeout: Seconds that one attempt may take, from its beginning to its last byte.
        validate_hash: Hash algorithm to check shards with; the index must hold it. By default the
            fastest one that it holds. Shards are checked when they arrive, and once by each process
            that finds them in the cache; those read in place only where this is given.
        keep_zip: Keep the compressed form of fetched shards.
        allow_unsafe_types: Accept shards with pickled columns.
        on_data_change: What to do when a checkpoint was written with other data, mixture or
            options: ``"error"``, or ``"restart_epoch"`` to restart its epoch with the present ones.
            With ``stages`` it is ``"new_stage"``: to begin a new stage with the present stages and
            streams, in which every stream continues where it is.
        shuffle: Shuffle the samples.
        shuffle_algo: ``py1e``, ``py1s``, ``py2s``, ``py1br`` or ``naive`` (mosaicml-streaming's
            own), or ``feistel``: for any number of samples without a list of them in memory or on
            disk.
        shuffle_seed: Seed of order and sampling.
        shuffle_block_size: Samples among which one is shuffled.
        num_canonical_nodes: Parts over which the order is dealt; by default as many as nodes.
        sampling_method: ``balanced`` or ``fixed``.
        sampling_granularity: Samples picked from the same shard at a time.
        batching_method: ``random``, ``stratified``, ``per_stream`` or ``device_per_stream``.
        packing: Join documents (text, or one row of tokens each) into full rows, with EOS between
            them, instead of making a row of each. Needs ``batching_method = "random"``.
        packing_lanes: Lanes in which documents are packed; the number of ranks must divide it. By
            default the smallest multiple of 960 that is at least 4 times the ranks of the run's
            first start.
        positions: Batches also hold ``"positions"``, int64[B, T]: each token's position in its
            document, 0 at the first token of each document and of each row. The column
            ``document_ends`` of the data says where documents end; without it, the tokenizer's EOS
            token ends them. With ``packing`` the documents are the ones that were packed.
        mask_boundaries: Ignore the label that would predict the first token of the next document
            from the last one of this. Documents end where ``positions`` says.
        stages: A mixture that changes during the run, in place of an order of epochs: a list of
            mappings, each with ``weights``, the weight of each stream by its name, and, but for the
            last one, its length as ``samples`` or ``tokens``, a number or ``"2T"``. With
            ``packing`` samples are documents. A length is rounded up to a multiple of the canonical
            nodes. In every 65,536 samples of a canonical node, each stream has exactly its share. A
            stream is drawn from epoch by epoch, and continues in later stages where it was. Needs
            ``batching_method = "random"``, and no other weights.
        weights_in: What weights of stages count: ``"samples"`` or ``"tokens"``, by the mean length
            of each stream's samples when it came into the run.
        vocab_size: Token ids that the model embeds. A batch with one beyond them, or a negative
            one, raises an error that names stream, shard, sample and id, in place of an index error
            in the model. None, where the model is not known, refuses only negative ids.

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
        vocab_size: int | None = None,
    ):
        seq_len = arguments.integer("seq_len", seq_len, 1)
        if vocab_size is not None:
            vocab_size = arguments.integer("vocab_size", vocab_size, 1)
        options = DatasetOptions(
            remote=remote,
            local=local,
            split=split,
            token_encoding_type=token_encoding_type,
            epoch_size=epoch_size,
            predownload=predownload,
            cache_limit=cache_limit,
            cache_dir=cache_dir,
            download_retry=download_retry,
            download_timeout=download_timeout,
            validate_hash=validate_hash,
            keep_zip=keep_zip,
            allow_unsafe_types=allow_unsafe_types,
            on_data_change=on_data_change,
            shuffle=shuffle,
            shuffle_algo=shuffle_algo,
            shuffle_seed=shuffle_seed,
            shuffle_block_size=shuffle_block_size,
            num_canonical_nodes=num_canonical_nodes,
            sampling_method=sampling_method,
            sampling_granularity=sampling_granularity,
            batching_method=batching_method,
            packing=packing,
            packing_lanes=packing_lanes,
            positions=positions,
            mask_boundaries=mask_boundaries,
            weights_in=weights_in,
        )
        _check_packing(options)
        _check_stage_options(stages, options)
        if bool(streams) == bool(remote or local):
            raise MosaicDataError("give either streams, or remote and/or local")
        self.order_options = options
        self.vocab_size = vocab_size
        self.seq_len = seq_len
        self.predownload = options.predownload
        self.on_data_change = on_data_change
        self.token_encoding_type = token_encoding_type
        cache_dir = arguments.place("cache_dir", cache_dir) if cache_dir else default_cache_dir()
        if "://" in cache_dir:
            raise MosaicDataError(f"cache_dir = {cache_dir!r} must be a directory on this machine")
        self.orders_dir = os.path.join(cache_dir, "orders")
        opened = open_streams(
            streams or {"data": {"remote": remote, "local": local, "split": split}},
            StreamDefaults(
                split=split if streams else None,
                download_retry=options.download_retry,
                download_timeout=options.download_timeout,
                validate_hash=validate_hash,
                keep_zip=keep_zip,
                allow_unsafe_types=allow_unsafe_types,
                token_encoding_type=token_encoding_type,
                cache_dir=cache_dir,
            ),
        )
        size = None if epoch_size is None else parse_count("epoch_size", epoch_size)
        if stages is not None:
            _refuse_weights(opened)
        self.mixture = _weigh(opened, size, self.order_options.shuffle_seed)
        check_prepared(opened, tokenizer, seq_len, packing=packing)
        text = [stream.name for stream in opened if stream.column.kind == "text"]
        if text and tokenizer is None:
            raise MosaicDataError(f'stream "{text[0]}" holds text; set mosaic_tokenizer.name')
        # Streams of tokens need none, and are not held up by one that cannot encode batches.
        self.tokenizer = BatchTokenizer(tokenizer) if text else None
        self.pad_id = pad_token_id(tokenizer)
        self.packing = packing
        self.packing_lanes = options.packing_lanes
        self.eos_id = eos_token_id(tokenizer) if packing else None
        if packing and text and self.eos_id is None:
            logger.warning(
                "packing: the tokenizer has no EOS token, so that nothing marks where one document "
                "ends and the next begins; set mosaic_tokenizer.kwargs.eos_token"
            )
        self.positions = positions
        self.boundaries = (
            _boundaries(opened, positions, mask_boundaries, eos_token_id(tokenizer), packing)
            if positions or mask_boundaries
            else None
        )
        self.stage_config: StageConfig | None = None
        if stages is not None:
            parsed = parse_stages(stages, [stream.name for stream in opened])
            sizes = _tokens_per_sample(opened, self.mixture, None if packing else seq_len)
            self.stage_config = StageConfig(parsed, weights_in, sizes)
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
            counts_opened=self.predownload == 0,
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
        self.documents = DocumentReader(self.store, self.mixture, self.tokenizer, self.eos_id)
        self.identity = DataIdentity(
            self.store,
            self.mixture,
            self.tokenizer,
            seq_len=self.seq_len,
            token_encoding_type=self.token_encoding_type,
            packing=self.packing,
            eos_id=self.eos_id,
        )

    @property
    def streams(self) -> list[DataStream]:
        """The opened streams."""
        return self.store.streams

    def __len__(self) -> int:
        """Samples in all streams, each counted once."""
        return self.mixture.num_samples

    def __getitem__(self, index: int) -> torch.Tensor:
        """Token ids of one sample, int64[n], n at most T+1.

        Raises:
            IndexError: There is no such sample.
            MosaicDataError: Its shard cannot be had or is damaged.
        """
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of {count}")
        return self.rows.sample(index % count)

    def reopened(self) -> "StreamingTextDataset":
        """The same data set with no file open, for another process."""
        twin = object.__new__(type(self))
        twin.__setstate__(self.__getstate__())
        return twin

    def __getstate__(self) -> dict[str, Any]:
        """Without open files and threads' locks; ``__setstate__`` opens it anew."""
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
        """Unmap all shards and let all locks go."""
        self.store.close()


def _boundaries(
    opened: list[DataStream], positions: bool, mask: bool, eos_id: int | None, packing: bool
) -> Boundaries:
    """How the documents in a row are told apart; warns where nothing does.

    Packing knows its documents, and an unpacked row of text is a single one.
    """
    for stream in () if packing else opened:
        # Of every shard, so that a column that cannot be read is refused here.
        stored = all([ends_of(stream, place) is not None for place in range(len(stream.readers))])
        if eos_id is None and not stored and stream.column.kind != "text":
            warn_at_start(
                f'stream "{stream.name}": nothing says where the documents in its rows end, so '
                f"that each row counts as one; set mosaic_tokenizer.name for its EOS token, or "
                f"prepare the data with document_ends"
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
        if options.weights_in != "samples":
            raise MosaicDataError(
                f"weights_in = {options.weights_in!r} has no meaning without stages; give stages, "
                f"or leave it out"
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
        for weight in _weights(stream):
            raise MosaicDataError(
                f'stream "{stream.name}" has {weight}, and stages give the weights; remove it'
            )


def _tokens_per_sample(
    opened: list[DataStream], mixture: Mixture, seq_len: int | None
) -> tuple[int, ...]:
    """Tokens of a sample of each stream, about, in thousandths.

    Args:
        opened: The streams.
        mixture: Their sizes.
        seq_len: Tokens of a row, which a sample gives at the most; None with packing.
    """
    drawn = tokens_per_stream(opened, mixture)
    means = [tokens / size.choose for tokens, size in zip(drawn, mixture.streams, strict=True)]
    if seq_len is not None:
        means = [min(mean, float(seq_len)) for mean in means]
    return tuple(max(1, round(1000 * mean)) for mean in means)


def _weigh(opened: list[DataStream], epoch_size: int | None, seed: int) -> Mixture:
    """Resolve proportion, repeat, choose and epoch_size, by mosaicml-streaming's own rules."""
    from streaming import Stream

    _check_weights(opened, epoch_size)
    streams = [s.stream for s in opened]
    samples = np.array([sum(len(r) for r in s.readers) for s in opened], np.int64)
    try:
        # Of weights that leave no sample, the line below says it; numpy would warn of 0 / 0.
        with np.errstate(invalid="ignore"):
            Stream.apply_weights(streams, samples, epoch_size, seed)
    except (ValueError, OverflowError) as error:
        raise MosaicDataError(f"the streams' weights do not fit together: {error}") from error
    sizes = [
        StreamSize(s.name, np.array([len(r) for r in s.readers], np.int64), int(s.stream.choose))
        for s in opened
    ]
    mixture = Mixture(tuple(sizes))
    if mixture.epoch_samples < 1:
        raise MosaicDataError("the streams' weights leave no sample in an epoch; raise them")
    for data, one in zip(opened, sizes, strict=True):
        if not one.choose:
            kind, weight = next(iter(_weights(data).items()))
            warn_at_start(
                f'stream "{data.name}" gives no sample to an epoch: {kind} = {weight:g}, of '
                f"{one.samples:,} samples; raise it, or remove the stream"
            )
    return mixture


def _weights(data: DataStream) -> dict[str, float]:
    """The weights of a stream that were given."""
    all_three = {key: getattr(data.stream, f"_{key}") for key in ("proportion", "repeat", "choose")}
    return {key: value for key, value in all_three.items() if value is not None}


def _check_weights(opened: list[DataStream], epoch_size: int | None) -> None:
    """See that the weights of the streams go together (mosaicml-streaming's rules)."""
    relative = [s.name for s in opened if "proportion" in _weights(s)]
    absolute = [s for s in opened if "proportion" not in _weights(s)]
    if relative and absolute:
        has = next(iter(_weights(absolute[0])), "no proportion")
        raise MosaicDataError(
            f'stream "{absolute[0].name}" has {has}, but stream "{relative[0]}" has proportion; '
            f"give every stream a proportion, or none"
        )
    if relative and not any(_weights(s)["proportion"] for s in opened):
        raise MosaicDataError(
            "the streams' proportions are all 0; give at least one stream more than 0"
        )
    counted = [s for s in absolute if _weights(s)]
    if counted and epoch_size is not None:
        raise MosaicDataError(
            f'epoch_size cannot be kept: stream "{counted[0].name}" has '
            f"{next(iter(_weights(counted[0])))}, which fixes a number of samples; remove one of "
            f"them"
        )
