"""The saved state of one lane, as one JSON text."""

import json
from dataclasses import dataclass

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.state.position import checksum


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
class SavedLane:
    """What a checkpoint holds of a lane.

    Attributes:
        position: Position in the order, from its beginning, of the first unfinished document.
        offset: See `LanePosition`.
        finished: Documents of each stream that lie behind, in the order of the streams.
        samples_seen: Rows that all ranks together had handed out when it was saved. It tells
            lanes of one checkpoint from those of another.
    """

    position: int
    offset: int
    finished: tuple[int, ...]
    samples_seen: int

    def to_json(self) -> str:
        """As JSON, with a checksum over everything else in it."""
        content = {
            "position": self.position,
            "offset": self.offset,
            "finished": list(self.finished),
            "samples_seen": self.samples_seen,
        }
        return json.dumps({**content, "checksum": checksum(content)}, sort_keys=True)

    @classmethod
    def from_json(cls, key: str, text: object) -> "SavedLane":
        """Read a saved lane.

        Raises:
            MosaicDataError: The text is damaged or was changed.
        """
        try:
            content = json.loads(text) if isinstance(text, str) else None
        except json.JSONDecodeError:
            content = None
        if not isinstance(content, dict) or content.pop("checksum", None) != checksum(content):
            raise MosaicDataError(
                f"the saved data state's {key} is damaged or was edited; load an earlier checkpoint"
            )
        return cls(
            position=content["position"],
            offset=content["offset"],
            finished=tuple(content["finished"]),
            samples_seen=content["samples_seen"],
        )
