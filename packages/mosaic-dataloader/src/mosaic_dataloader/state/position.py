"""The saved position, as one JSON text."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mosaic_dataloader.errors import MosaicDataError

VERSION = 1
KEY = "mosaic"


@dataclass(frozen=True)
class Position:
    """Where a run is in its data, and what identifies the order it counts in.

    Attributes:
        samples_seen: Samples of the order that are behind: handed out by all ranks together since
            the run began, or skipped at its start. If documents are packed, rows handed out.
        origin: ``{"samples", "epoch"}``: the position at which the present order begins and the
            epoch that begins there.
        epoch_samples: Samples in one epoch of that order; 0 where none was counted yet. If
            documents are packed, about how many rows an epoch gives.
        order: Settled order options (see ``SettledOrder``).
        rows: What decides the content of a row: sequence length, tokenizer, token encoding.
        streams: One entry per stream: name, samples, shards, choose, digest, seen, tokens. If
            documents are packed, what was seen is counted lane by lane, and here it is 0.
        packing_lanes: Lanes in which documents are packed; None if they are not.
        skipped: Samples of the order that were left out before the run's first batch; they count
            in ``samples_seen`` and in no stream's ``seen``. If documents are packed, these are
            documents, which ``samples_seen`` does not count.
        tokens_at: The position up to which the streams' ``tokens`` are counted.
    """

    samples_seen: int
    origin: Mapping[str, int]
    epoch_samples: int
    order: Mapping[str, Any]
    rows: Mapping[str, Any]
    streams: tuple[Mapping[str, Any], ...]
    packing_lanes: int | None = None
    skipped: int = 0
    tokens_at: int = 0

    @property
    def epoch(self) -> int:
        """The epoch that the next sample belongs to."""
        since = self.samples_seen - self.origin["samples"]
        if self.packing_lanes is not None and not any(self.origin.values()):
            # Documents that were skipped, as the rows that they would have given, about.
            documents = sum(int(s["choose"]) for s in self.streams)
            since += self.skipped * self.epoch_samples // documents
        # No length is known before the first batch, of which a run may skip samples.
        return self.origin["epoch"] + (since // self.epoch_samples if self.epoch_samples else 0)

    def to_json(self) -> str:
        """The position as JSON, with a checksum over everything else in it."""
        content: dict[str, Any] = {
            "version": VERSION,
            "samples_seen": self.samples_seen,
            "origin": dict(self.origin),
            "epoch_samples": self.epoch_samples,
            "order": dict(self.order),
            "rows": dict(self.rows),
            "streams": [dict(s) for s in self.streams],
            "skipped": self.skipped,
            "tokens_at": self.tokens_at,
        }
        if self.packing_lanes is not None:
            content["packing_lanes"] = self.packing_lanes
        return json.dumps({**content, "checksum": checksum(content)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: object) -> "Position":
        """Read a saved position.

        Raises:
            MosaicDataError: The text is truncated, was changed, or comes from a newer release.
        """
        if not isinstance(text, str):
            raise MosaicDataError(
                f"the saved data position is a {type(text).__name__}, not text; the checkpoint was "
                f"written by another loader"
            )
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise MosaicDataError(
                f"the saved data position is no JSON ({error}); the checkpoint is truncated or "
                f"damaged, load an earlier one"
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("version"), int):
            raise MosaicDataError(
                "the saved data position has no version; it is not one of this loader's"
            )
        if content["version"] > VERSION:
            raise MosaicDataError(
                f"the saved data position has format version {content['version']}, this release "
                f"reads up to {VERSION}; install a newer mosaic-dataloader"
            )
        if content.pop("checksum", None) != checksum(content):
            raise MosaicDataError(
                "the saved data position does not match its checksum; the checkpoint is damaged or "
                "was edited, load an earlier one"
            )
        return cls(
            samples_seen=content["samples_seen"],
            origin=content["origin"],
            epoch_samples=content["epoch_samples"],
            order=content["order"],
            rows=content["rows"],
            streams=tuple(content["streams"]),
            packing_lanes=content.get("packing_lanes"),
            # Both came later than the format.
            skipped=content.get("skipped", 0),
            tokens_at=content.get("tokens_at", 0),
        )


def checksum(content: Mapping[str, Any]) -> str:
    """A short digest of JSON values."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
