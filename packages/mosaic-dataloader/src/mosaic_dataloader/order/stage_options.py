"""The stages of a run, as the user gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.stages import BLOCK, Stage, draws_per_block
from mosaic_dataloader.util import arguments

_KEYS = ("samples", "tokens", "weights")
# Far above any run, and far enough below 2**63 to calculate with.
_LONGEST = 1 << 48


@dataclass(frozen=True)
class StageOptions:
    """One stage.

    Attributes:
        weights: Weight of each stream by name; streams that are not named have none.
        samples: How long it is, in samples; None unless given.
        tokens: How long it is, in tokens; None unless given.
    """

    weights: Mapping[str, float]
    samples: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class StageConfig:
    """What the user says of the mixture.

    Attributes:
        stages: The stages.
        weights_in: Whether weights count ``samples`` or ``tokens``.
    """

    stages: tuple[StageOptions, ...]
    weights_in: str

    @property
    def counts_tokens(self) -> bool:
        """Whether weights or lengths count tokens, so that the lengths of samples matter."""
        return self.weights_in == "tokens" or any(s.tokens is not None for s in self.stages)


def parse_stages(given: Any, names: Sequence[str]) -> tuple[StageOptions, ...]:
    """Check the option ``stages``.

    Raises:
        MosaicDataError: It is something else; the message says what to change.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence) or not given:
        raise MosaicDataError(f"stages = {given!r} must be a list of at least one stage")
    return tuple(
        _stage(number, one, names, last=number == len(given)) for number, one in enumerate(given, 1)
    )


def plan_stages(
    config: StageConfig,
    *,
    names: Sequence[str],
    numbers: Sequence[int],
    millitokens: Sequence[int],
    nodes: int,
) -> tuple[Stage, ...]:
    """Turn the options into stages.

    Worked example: 4 canonical nodes, and a first stage of 1,001 samples. It is rounded up to 1,004
    samples, so that the second stage begins at position 1,004.

    ``names`` are those of the streams in the data, and ``numbers`` theirs among all streams that
    the run ever had, of which ``millitokens`` has the tokens of a sample, in thousandths.

    Raises:
        MosaicDataError: A stage is longer than any run.
    """
    sizes = np.array(millitokens, np.float64) / 1000
    number_of = dict(zip(names, numbers, strict=True))
    planned, start = [], 0
    for number, stage in enumerate(config.stages, 1):
        weights = np.zeros(len(millitokens), np.float64)
        for name, weight in stage.weights.items():
            weights[number_of[name]] = weight
        if config.weights_in == "tokens":
            weights /= sizes
        counts = draws_per_block(weights.tolist())
        planned.append(Stage(start, counts))
        length = stage.samples
        if stage.tokens is not None:
            length = round(stage.tokens / float(np.array(counts) @ sizes / BLOCK))
        if length is not None:
            start += -(-max(1, length) // nodes) * nodes
        if start > _LONGEST:
            raise MosaicDataError(f"stage {number} ends after {start:,} samples; shorten it")
    return tuple(planned)


def _stage(number: int, given: Any, names: Sequence[str], *, last: bool) -> StageOptions:
    where = f"stage {number}"
    if not isinstance(given, Mapping):
        raise MosaicDataError(f"{where} = {given!r} must be a table with weights")
    given = {key: value for key, value in given.items() if value is not None}
    for key in given:
        if key not in _KEYS:
            raise MosaicDataError(f"{where} has no option {key!r}; it takes {', '.join(_KEYS)}")
    lengths = [key for key in ("samples", "tokens") if key in given]
    if len(lengths) == 2:
        raise MosaicDataError(f"{where} has samples and tokens; keep one of them")
    if last and lengths:
        raise MosaicDataError(
            f"{where} is the last one and lasts until the run ends; remove its {lengths[0]}, or "
            f"add a stage after it"
        )
    if not last and not lengths:
        raise MosaicDataError(
            f"{where} has neither samples nor tokens, and another stage follows it; give it one of "
            f"them"
        )
    length = {key: arguments.parse_count(f"{where}: {key}", given[key]) for key in lengths}
    for key, count in length.items():
        if count > _LONGEST:
            raise MosaicDataError(f"{where}: {key} = {given[key]!r} is too large")
    return StageOptions(_weights(where, given.get("weights"), names), **length)


def _weights(where: str, given: Any, names: Sequence[str]) -> dict[str, float]:
    if not isinstance(given, Mapping) or not given:
        raise MosaicDataError(
            f"{where} has no weights; give it a weight for each stream that it draws from, as in "
            f"weights = {{ {names[0]} = 1.0 }}"
        )
    for name in given:
        if name not in names:
            near = get_close_matches(str(name), names, 1, 0)
            raise MosaicDataError(
                f"{where} has a weight for {name!r}, and there is no such stream"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
    weights = {
        name: arguments.number(f"{where}: the weight of {name!r}", weight, least=0)
        for name, weight in given.items()
    }
    if not any(weights.values()):
        raise MosaicDataError(f"{where}: all weights are 0; give at least one stream more than 0")
    if sum(weights.values()) == float("inf"):
        raise MosaicDataError(f"{where}: the weights are too large to be added; make them smaller")
    return weights
