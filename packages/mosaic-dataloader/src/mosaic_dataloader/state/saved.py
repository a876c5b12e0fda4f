"""The saved form of a run: one JSON text for all ranks, and one for each packing lane."""

from dataclasses import dataclass
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.sequence import EpochStart
from mosaic_dataloader.order.skip import Range
from mosaic_dataloader.state.identity import MIGRATIONS, VERSION, Identity
from mosaic_dataloader.state.json_form import (
    LARGEST,
    damaged,
    parsed,
    read_fields,
    read_list,
    refuse_unknown,
    sealed,
    shown,
    take_fields,
    unsealed,
)
from mosaic_dataloader.state.stages import RunStages

KEY = "mosaic"


def lane_key(lane: int) -> str:
    """The key under which a lane's state is saved."""
    return f"lane_{lane:04d}"


@dataclass(frozen=True)
class _Counts:
    """What a state counts of each stream."""

    seen: int = 0
    tokens: int = 0
    millitokens: int = 0


@dataclass(frozen=True)
class SavedState:
    """Where a run is in its data, and what identifies the order it counts in.

    Attributes:
        samples_seen: Samples of the order that all ranks together were handed since the run began,
            or skipped at its start. If documents are packed, rows that they were handed.
        origin: The position at which the present order begins, and the epoch that begins there.
        epoch_samples: Samples in one epoch of that order; 0 where none was counted yet. If
            documents are packed, about how many rows an epoch gives.
        identity: The run that it is a position of.
        seen: Samples of each stream that were handed out. If documents are packed, what was seen is
            counted lane by lane, and here it is 0.
        tokens: Target tokens of each stream.
        skipped: Samples of the order that were left out before the run's first batch; they count
            in ``samples_seen`` and in no stream's ``seen``. If documents are packed, these are
            documents, which ``samples_seen`` does not count.
        tokens_at: The position up to which ``tokens`` are counted.
        probe: Digest of the sample ids that come next (see ``identity.probe``); None before the
            first batch, and in states of version 1. If documents are packed, each lane has its own.
        stages: The mixture of a run with stages; None where the order is one of epochs.
        millitokens: Mean tokens of a sample of each stream, in thousandths, where proportions count
            tokens; else none.
        left_out: Ranges of positions before ``samples_seen`` that were left out of training. They
            count in no stream's ``seen``.
    """

    samples_seen: int
    origin: EpochStart
    epoch_samples: int
    identity: Identity
    seen: tuple[int, ...]
    tokens: tuple[int, ...]
    skipped: int = 0
    tokens_at: int = 0
    probe: str | None = None
    stages: RunStages | None = None
    millitokens: tuple[int, ...] = ()
    left_out: tuple[Range, ...] = ()

    @property
    def begun(self) -> bool:
        """Whether the run had handed out a batch."""
        packed = self.identity.packing_lanes is not None
        return self.samples_seen > max(self.origin.samples, 0 if packed else self.skipped)

    @property
    def epoch(self) -> int:
        """The epoch that the next sample belongs to."""
        since = self.samples_seen - self.origin.samples
        if self.identity.packing_lanes is not None and self.origin == EpochStart():
            # Documents that were skipped, as the rows that they would have given, about.
            documents = sum(s.choose for s in self.identity.streams)
            since += self.skipped * self.epoch_samples // max(1, documents)
        # No length is known before the first batch, of which a run may skip samples.
        return self.origin.epoch + (since // self.epoch_samples if self.epoch_samples else 0)

    def to_json(self) -> str:
        """The position as JSON, with a checksum over everything else in it."""
        identity = self.identity.to_content()
        content: dict[str, Any] = {
            **identity,
            "version": VERSION,
            "samples_seen": self.samples_seen,
            "origin": dict(vars(self.origin)),
            "epoch_samples": self.epoch_samples,
            "streams": [
                {**stream, "seen": seen, "tokens": tokens}
                for stream, seen, tokens in zip(
                    identity["streams"], self.seen, self.tokens, strict=True
                )
            ],
            "skipped": self.skipped,
            "tokens_at": self.tokens_at,
        }
        for stream, size in zip(content["streams"], self.millitokens, strict=False):
            stream["millitokens"] = size
        if self.probe is not None:
            content["probe"] = self.probe
        if self.stages is not None:
            content["stages"] = self.stages.to_content(self.identity.streams)
        if self.left_out:
            content["left_out"] = [list(one) for one in self.left_out]
        return sealed(content)

    @classmethod
    def from_json(cls, text: object) -> "SavedState":
        """Read a saved position of this version or an older one.

        Raises:
            MosaicDataError: The text is truncated, was changed, comes from a newer release, or
                holds something else than a position.
        """
        content = _content(text)
        while (version := content.pop("version")) < VERSION:
            content = {**MIGRATIONS[version](content), "version": version + 1}
        numbers = take_fields(cls, content, "it")
        origin, stages = content.pop("origin", None), content.pop("stages", None)
        left_out = content.pop("left_out", [])
        counts = [
            _Counts(**take_fields(_Counts, stream, f"stream {number}"))
            for number, stream in enumerate(read_list(content.get("streams"), "streams"))
            if isinstance(stream, dict)
        ]
        identity = Identity.from_content(content)
        nodes = identity.order.num_canonical_nodes
        read = cls(
            origin=read_fields(EpochStart, origin, "origin"),
            identity=identity,
            stages=None
            if stages is None
            else RunStages.from_content(stages, nodes, len(identity.streams)),
            seen=tuple(c.seen for c in counts),
            tokens=tuple(c.tokens for c in counts),
            millitokens=tuple(c.millitokens for c in counts if c.millitokens),
            left_out=_read_ranges(left_out, numbers["samples_seen"]),
            **numbers,
        )
        if len(read.millitokens) not in (0, len(counts)):
            raise damaged("some of its streams have no millitokens")
        for name, position in (("origin", read.origin.samples), ("tokens_at", read.tokens_at)):
            if position > read.samples_seen:
                raise damaged(f"{name} {position:,} is after samples_seen {read.samples_seen:,}")
        return read


def _read_ranges(content: object, position: int) -> tuple[Range, ...]:
    """Ranges of positions that were left out before a position."""
    found: list[Range] = []
    for number, one in enumerate(read_list(content, "left_out")):
        bounds = read_list(one, f"left_out {number}")
        least = found[-1][1] + 1 if found else 0
        whole = len(bounds) == 2 and all(type(bound) is int for bound in bounds)
        if not whole or not least <= bounds[0] < bounds[1] <= position:
            raise damaged(f"left_out {number} is not a range of positions before {position:,}")
        found.append((bounds[0], bounds[1]))
    return tuple(found)


@dataclass(frozen=True)
class SavedLane:
    """What a checkpoint holds of a lane.

    Attributes:
        position: Position in the order, from its beginning, of the first unfinished document.
        offset: See `LanePosition`.
        finished: Documents of each stream that were read to their ends, in the streams' order.
        samples_seen: Rows that all ranks together had been handed when it was saved. It
            distinguishes lanes of one checkpoint from those of another.
        probe: Digest of the ids of the documents that come next in the lane (see
            ``identity.probe``); None before the first row, and in states of version 1.
    """

    position: int
    offset: int
    finished: tuple[int, ...]
    samples_seen: int
    probe: str | None = None

    def to_json(self) -> str:
        """As JSON, with a checksum over everything else in it."""
        # Not `asdict`: it copies every count, and a run has hundreds of lanes.
        content = {**vars(self), "finished": list(self.finished)}
        if self.probe is None:
            del content["probe"]
        return sealed(content)

    @classmethod
    def from_json(cls, key: str, text: object, streams: int) -> "SavedLane":
        """Read what was saved under the key of a lane of a run with so many streams.

        Raises:
            MosaicDataError: The text is damaged or was changed.
        """
        try:
            content = parsed(text) if isinstance(text, str) else None
        except ValueError:
            content = None
        values = unsealed(content) if isinstance(content, dict) else None
        if values is None:
            raise MosaicDataError(
                f"the saved data state's {key} is damaged or was edited; load an earlier checkpoint"
            )
        finished = read_list(values.pop("finished", None), f"{key} finished")
        if len(finished) != streams or not all(
            type(count) is int and 0 <= count <= LARGEST for count in finished
        ):
            raise MosaicDataError(
                f"the saved data state's {key} does not count documents of {streams} streams; load "
                f"an earlier checkpoint"
            )
        place = take_fields(cls, values, key)
        refuse_unknown(values, (), key)
        return cls(finished=tuple(finished), **place)


def _content(text: object) -> dict[str, Any]:
    """The values of a saved position whose version and checksum are right."""
    if not isinstance(text, str):
        raise MosaicDataError(
            f"the saved data position is a {type(text).__name__}, not text; the checkpoint was "
            f"written by another loader"
        )
    try:
        content = parsed(text)
    except ValueError as error:
        raise MosaicDataError(
            f"the saved data position is not JSON ({error}); the checkpoint is truncated or "
            f"damaged, load an earlier one"
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise MosaicDataError(
            "the saved data position has no version; it is not one of this loader's"
        )
    if version > VERSION:
        raise MosaicDataError(
            f"the saved data position has format version {shown(version)}, this release reads up "
            f"to {VERSION}; install a newer mosaic-dataloader"
        )
    values = unsealed(content)
    if values is None:
        raise MosaicDataError(
            "the saved data position does not match its checksum; the checkpoint is damaged or "
            "was edited, load an earlier one"
        )
    return values
