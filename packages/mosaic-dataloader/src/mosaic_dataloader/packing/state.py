"""The saved state of one lane, as one JSON text."""

from dataclasses import dataclass

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.state.json_form import (
    LARGEST,
    parsed,
    read_fields,
    read_list,
    sealed,
    unsealed,
)


def lane_key(lane: int) -> str:
    """Under which key a lane's state is saved."""
    return f"lane_{lane:04d}"


@dataclass(frozen=True)
class LanePosition:
    """Where a lane goes on.

    Attributes:
        document: Number, within the lane, of its first unfinished document.
        offset: Place in that document of the token that the next row begins with.
        finished: Documents that lie behind, by stream; empty for none at all.
    """

    document: int = 0
    offset: int = 0
    finished: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Place:
    position: int
    offset: int
    samples_seen: int
    probe: str | None = None


@dataclass(frozen=True)
class SavedLane:
    """What a checkpoint holds of a lane.

    Attributes:
        position: Position in the order, from its beginning, of the first unfinished document.
        offset: See `LanePosition`.
        finished: Documents of each stream that lie behind, in the order of the streams.
        samples_seen: Rows that all ranks together had handed out when it was saved. It tells
            lanes of one checkpoint from those of another.
        probe: Digest of the ids of the documents that come next in the lane (see
            ``identity.lane_probes``); None before the first row, and in states of version 1.
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
        """Read a saved lane.

        Args:
            key: Its key, for messages.
            text: What was saved.
            streams: How many streams the run has.

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
        place = read_fields(_Place, values, key)
        return cls(finished=tuple(finished), **vars(place))
