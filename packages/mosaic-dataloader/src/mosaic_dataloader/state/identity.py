"""What a saved state belongs to: the order, the rows and the data of its run.

Everything that identifies a run stands here. To add a field:

1. Add it to the dataclass that it belongs to, with the default that an older state is taken to
   have. ``None`` stands for "not known" and is compared with nothing. An option of the order is
   added to ``ResolvedOrder``, with the value by which the order is what it was before.
2. Fill it in where ``DataIdentity`` makes that dataclass; ``compare`` knows it then.

A field whose meaning changes, or a form that does, needs the next ``VERSION`` and an entry in
``MIGRATIONS``.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, partial
from importlib.metadata import version
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import DatasetOptions
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder, field_names
from mosaic_dataloader.order.sequence import REMOVED
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
from mosaic_dataloader.reading.tokenizer_identity import (
    definition_digest,
    encoding_digest,
    identify_tokenizer,
)
from mosaic_dataloader.state.json_form import (
    read_fields,
    read_list,
    refuse_unknown,
    shown,
    take_fields,
)
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.storage.streams import DataStream, ShardSamples, shard_columns
from mosaic_dataloader.util.forks import reset_in_child
from mosaic_dataloader.util.threads import map_concurrent, run_async

logger = logging.getLogger(__name__)

VERSION = 3
# Sample ids that stand for the order from a position on; and those of each lane, of which a run has
# hundreds.
PROBED, PROBED_IN_LANE = 64, 8
# Samples that stand for the content of a stream whose index holds no hashes.
_SAMPLED = 8
# Streams whose samples are read at a time: their stores answer late, each for itself.
_READ_AT_ONCE = 16
NO_EOS = -1


@dataclass(frozen=True)
class RowIdentity:
    """What decides the content of a row besides the data.

    Attributes:
        seq_len: Tokens in a row, T.
        token_encoding_type: Dtype of token ids in ``bytes`` columns.
        tokenizer: Fingerprint of the tokenizer that encodes text, the one that manifests hold.
        tokenizer_encoding: Digest of what more it does to text: added tokens, special tokens.
        tokenizer_definition: Digest of its definition: what version 1 held in place of both.
        eos_id: The token that ends a packed document; ``NO_EOS`` where the tokenizer has none.
    """

    seq_len: int
    token_encoding_type: str | None = None
    tokenizer: str | None = None
    tokenizer_encoding: str | None = None
    tokenizer_definition: str | None = None
    eos_id: int | None = field(default=None, metadata={"least": NO_EOS})


@dataclass(frozen=True)
class StreamIdentity:
    """One stream, by its content: a bucket may move and a stream may be renamed.

    Attributes:
        name: For messages.
        samples: Samples in the stream.
        shards: Its shards.
        choose: Samples that one epoch draws from it.
        digest: Of its index: sizes, hashes and columns of the shards.
        content: Digest of a few samples, where the index holds no hashes. Not known before a run's
            first batch: reading them may take a download.
    """

    name: str
    samples: int
    shards: int
    choose: int
    digest: str
    content: str | None = None


@dataclass(frozen=True)
class Identity:
    """A run.

    Attributes:
        order: The options of its order.
        rows: What decides the content of a row.
        streams: Its data.
        packing_lanes: Lanes in which documents are packed; None if they are not.
        libraries: Versions of the libraries that take part in the order. Not compared, but named
            where the order turns out to be another.
    """

    order: ResolvedOrder
    rows: RowIdentity
    streams: tuple[StreamIdentity, ...]
    packing_lanes: int | None = None
    libraries: str = ""

    def to_content(self) -> dict[str, Any]:
        """As JSON values, without what is not known."""
        content = {
            "order": self.order.to_dict(),
            "rows": _known(self.rows),
            "streams": [_known(stream) for stream in self.streams],
            "packing_lanes": self.packing_lanes,
            "libraries": self.libraries,
        }
        return {name: value for name, value in content.items() if value is not None}

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> "Identity":
        """The identity in JSON values of the present version.

        Raises:
            MosaicDataError: A part of it is missing, unknown or of another type.
        """
        refuse_unknown(content, [own.name for own in fields(cls)], "it")
        single = take_fields(cls, dict(content), "it")
        streams = read_list(content.get("streams"), "streams")
        order = content.get("order")
        if isinstance(order, dict):
            order = field_names(order)
        return cls(
            read_fields(ResolvedOrder, order, "order"),
            read_fields(RowIdentity, content.get("rows"), "rows"),
            tuple(read_fields(StreamIdentity, s, f"stream {n}") for n, s in enumerate(streams)),
            **single,
        )


def compare(saved: Identity, present: Identity, open_options: Collection[str] = ()) -> list[str]:
    """List what differs between the run that a state belongs to and the present one.

    What one of them does not know is not compared, nor are names and places. For
    ``open_options``, which the user left open, the saved value is taken.

    Returns:
        One clause for each difference; empty where the run can continue.
    """
    return [
        *_packing_differences(saved.packing_lanes, present.packing_lanes, open_options),
        *_order_differences(saved.order, present.order, open_options),
        *_row_differences(saved.rows, present.rows),
        *_stream_differences(saved.streams, present.streams),
    ]


def probe(ids: Int64Array) -> str | None:
    """Digest of the sample ids, int64[n], that come next in an order or in a lane.

    Returns:
        None where one of them is of a stream that was removed from the data.
    """
    if (ids == REMOVED).any():
        return None
    return _digest([np.ascontiguousarray(ids, "<i8").tobytes()])


def order_difference(saved: Identity, position: int) -> str:
    """What to say of an order that gives other samples than the saved run's."""
    now = library_versions()
    written = saved.libraries
    versions = "" if written in ("", now) else f" (written with {shown(written)}, now {now})"
    return (
        f"from position {position:,} on, the order is computed otherwise than it was when the "
        f"checkpoint was written{versions}"
    )


@cache
def library_versions() -> str:
    """The libraries that take part in the order: random numbers and shuffle algorithms."""
    return ", ".join(f"{name} {version(name)}" for name in ("mosaicml-streaming", "numpy"))


class DataIdentity:
    """What identifies a data set, worked out when it is first asked for; see `RowIdentity`."""

    def __init__(
        self,
        store: ShardStore,
        mixture: Mixture,
        tokenizer: BatchTokenizer | None,
        options: DatasetOptions,
        *,
        seq_len: int,
        eos_id: int | None,
    ):
        self._store = store
        self._mixture = mixture
        self._tokenizer = tokenizer
        self._seq_len = seq_len
        self._token_encoding_type = options.token_encoding_type
        self._eos = (NO_EOS if eos_id is None else eos_id) if options.packing else None
        self._reading: Callable[[], list[str | None]] | None = None
        reset_in_child(self)

    def after_fork(self) -> None:
        """Read again in a child: the thread that reads is the parent's."""
        self._reading = None

    @cached_property
    def rows(self) -> RowIdentity:
        """What decides the content of a row."""
        raw = any(c.kind == "bytes" for s in self._store.streams for c in s.distinct_columns)
        rows = RowIdentity(
            self._seq_len,
            token_encoding_type=self._token_encoding_type if raw else None,
            eos_id=self._eos,
        )
        if self._tokenizer is None:
            return rows
        known = identify_tokenizer(self._tokenizer.fast, "")
        return replace(
            rows,
            tokenizer=known.fingerprint if known else None,
            tokenizer_encoding=encoding_digest(self._tokenizer),
        )

    def to_save(
        self, order: ResolvedOrder, mixture: Mixture, lanes: int | None, *, begun: bool
    ) -> Identity:
        """The run as a checkpoint holds it; the same on all ranks.

        Unless it has ``begun``, and a batch was handed out, nothing is waited for.
        """
        contents = None
        try:
            contents = self._contents() if begun else None
        except MosaicDataError as error:
            # No reason to lose a checkpoint: if the shard is needed, training will say so.
            logger.warning(
                "the checkpoint does not hold what identifies streams without hashes, for their "
                "samples cannot be read: %s",
                error,
            )
        streams = self._streams(mixture, contents)
        return Identity(order, self.rows, streams, lanes, library_versions())

    def to_compare(
        self, order: ResolvedOrder, mixture: Mixture, lanes: int | None, saved: Identity
    ) -> Identity:
        """The present run, with all of it that a saved one can be compared with.

        Raises:
            MosaicDataError: Samples that the saved run knows cannot be read.
        """
        rows = self.rows
        if saved.rows.tokenizer_definition is not None and self._tokenizer is not None:
            rows = replace(rows, tokenizer_definition=definition_digest(self._tokenizer))
        wanted = any(stream.content for stream in saved.streams)
        streams = self._streams(mixture, self._contents() if wanted else None)
        return Identity(order, rows, streams, lanes, library_versions())

    def read_samples(self) -> None:
        """Begin to read the samples that identify streams without hashes, in the background."""
        if self._reading is None:
            self._reading = run_async(self._read, "mosaic-identity")

    def _streams(
        self, mixture: Mixture, contents: Sequence[str | None] | None
    ) -> tuple[StreamIdentity, ...]:
        digests = self._digests
        contents = contents or [None] * len(digests)
        return tuple(
            StreamIdentity(
                name=size.name,
                samples=size.samples,
                shards=len(size.samples_per_shard),
                choose=size.choose,
                digest=digest,
                content=content,
            )
            for size, digest, content in zip(mixture.streams, digests, contents, strict=True)
        )

    @property
    def streams(self) -> tuple[StreamIdentity, ...]:
        """The streams, without what has to be read from shards."""
        return self._streams(self._mixture, None)

    @cached_property
    def _digests(self) -> list[str]:
        return [index_digest(stream) for stream in self._store.streams]

    def _contents(self) -> list[str | None]:
        self.read_samples()
        assert self._reading is not None
        try:
            return self._reading()
        except MosaicDataError:
            # The next call tries again.
            self._reading = None
            raise

    def _read(self) -> list[str | None]:
        chosen = {number: sampled(one) for number, one in enumerate(self._store.streams)}
        jobs = {n: partial(self._content_digest, n, own) for n, own in chosen.items() if own}
        if not jobs:
            return [None] * len(chosen)
        found = map_concurrent([*jobs.values()], _READ_AT_ONCE, "mosaic-identity")
        digests = dict(zip(jobs, found, strict=True))
        return [digests.get(number) for number in chosen]

    def _content_digest(self, stream: int, samples: ShardSamples) -> str:
        text = self._store.streams[stream].column.kind == "text"
        shard = int(self._mixture.stream_shards[stream]) + samples.shard
        with self._store.reading(shard) as opened:
            values = [
                opened.text(place).encode(errors="surrogatepass")
                if text
                else opened.tokens(place).tobytes()
                for place in samples.places
            ]
        # Another job may be waiting to evict it.
        self._store.release()
        return _digest(part for value in values for part in (repr(len(value)).encode(), value))


def sampled(stream: DataStream) -> ShardSamples | None:
    """The samples that identify a stream's content; None where its index holds hashes.

    They follow from the sizes alone, so that every rank reads the same, whatever it has already.
    They are of one shard, the smallest that has enough of them: it may have to be downloaded.
    """
    bare = [
        (len(reader) < _SAMPLED, sum(raw.bytes for raw, _ in reader.file_pairs), number)
        for number, reader in enumerate(stream.readers)
        if len(reader) and not all(raw.hashes for raw, _ in reader.file_pairs)
    ]
    if not bare:
        return None
    shard = min(bare)[2]
    count = len(stream.readers[shard])
    places = np.linspace(0, count - 1, min(count, _SAMPLED)).astype(np.int64)
    return ShardSamples(shard, places.tolist())


def index_digest(stream: DataStream) -> str:
    """What identifies a stream by its index: samples, sizes, hashes and columns of its shards."""
    digest = hashlib.sha256()
    for reader in stream.readers:
        for raw, _ in reader.file_pairs:
            hashes = sorted((raw.hashes or {}).items())
            digest.update(repr((len(reader), raw.bytes, hashes)).encode())
        # In the form of version 1, which holds the same digest.
        columns = tuple(list(part) for part in shard_columns(reader))
        digest.update(repr(columns).encode())
    return digest.hexdigest()[:16]


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 identified a tokenizer by its definition, and wrote null for no EOS token."""
    rows = content.get("rows")
    if isinstance(rows, dict):
        rows = dict(rows)
        if "tokenizer" in rows:
            rows["tokenizer_definition"] = rows.pop("tokenizer")
        if rows.get("eos_id", NO_EOS) is None:
            rows["eos_id"] = NO_EOS
    return {**content, "rows": rows}


# What makes a state of the next version out of one of each older version. The values are as they
# were read: nothing is known of their types.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: _from_version_1,
    # It knew no stages: its orders are those of runs that have none.
    2: lambda content: content,
}


def _order_differences(
    saved: ResolvedOrder, present: ResolvedOrder, open_options: Collection[str]
) -> list[str]:
    found = []
    method_changed = saved.batching_method != present.batching_method
    for name, value in vars(present).items():
        before = getattr(saved, name)
        if before == value or name in open_options:
            continue
        if name in ("device_batch", "nodes") or (name == "order_batch" and method_changed):
            # Follows from the layout; a device's part is cut as the first run cut it.
            continue
        if name == "order_batch":
            found.append(
                f"the global batch size was {before} and is now {value}, and "
                f"batching_method = {present.batching_method!r} orders data by it"
            )
        else:
            found.append(f"{name} was {shown(before)} and is now {value!r}")
    return found


def _packing_differences(
    saved: int | None, present: int | None, open_options: Collection[str]
) -> list[str]:
    if (saved is None) != (present is None):
        words = {True: "off", False: "on"}
        return [f"packing was {words[saved is None]} and is now {words[present is None]}"]
    if saved == present or "packing_lanes" in open_options:
        return []
    return [f"packing_lanes was {saved} and is now {present}"]


def _row_differences(saved: RowIdentity, present: RowIdentity) -> list[str]:
    found = []
    for name, value in vars(present).items():
        before = getattr(saved, name)
        if before is None or value is None or before == value:
            continue
        before, value = (None if v == NO_EOS else v for v in (before, value))
        found.append(f"{name} was {shown(before)} and is now {value!r}")
    return found


def _stream_differences(
    saved: Sequence[StreamIdentity], present: Sequence[StreamIdentity]
) -> list[str]:
    if len(saved) != len(present):
        before, after = (_named([s.name for s in streams]) for streams in (saved, present))
        return [f"the streams were {before} and are now {after}"]
    found = (stream_difference(old, new) for old, new in zip(saved, present, strict=True))
    return [one for one in found if one is not None]


def stream_difference(old: StreamIdentity, new: StreamIdentity) -> str | None:
    """What differs between a stream as it was and as it is, in words; None if nothing does."""
    if old.digest != new.digest:
        return (
            f'the data of stream "{new.name}" changed ({old.samples:,} samples in '
            f"{old.shards:,} shards before, {new.samples:,} in {new.shards:,} now)"
            if (old.samples, old.shards) != (new.samples, new.shards)
            else f'the data of stream "{new.name}" changed (as many samples and shards as '
            f"before, other content)"
        )
    if old.content and new.content and old.content != new.content:
        return (
            f'the data of stream "{new.name}" changed (samples and shards of the same sizes as '
            f"before, other tokens or text)"
        )
    if old.choose != new.choose:
        return (
            f'stream "{new.name}" gave {old.choose:,} samples an epoch and now gives {new.choose:,}'
        )
    return None


def _named(names: Sequence[str]) -> str:
    most = 20
    listed = ", ".join(shown(name)[1:-1] for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most:,} more"


def _known(part: RowIdentity | StreamIdentity) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if value is not None}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
