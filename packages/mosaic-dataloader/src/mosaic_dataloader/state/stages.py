"""The stages of a run: planned at its start, kept in its state, and changed under way."""

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import TokenMean
from mosaic_dataloader.order.stage_options import StageConfig, plan_stages
from mosaic_dataloader.order.stages import BLOCK, Stage
from mosaic_dataloader.reading.document_length import tokens_before
from mosaic_dataloader.state.identity import StreamIdentity, stream_difference
from mosaic_dataloader.state.json_form import (
    LARGEST,
    damaged,
    read_fields,
    read_list,
    refuse_unknown,
    shown,
    take_fields,
)

logger = logging.getLogger(__name__)

# Where a mean comes from that a state holds.
_KEPT = "the checkpoint"
# What a block can mix.
_MOST_STREAMS = BLOCK
# Stages of a run that a person changes again and again.
_MOST_STAGES = 100_000


@dataclass(frozen=True)
class RunStages:
    """The mixture of a run from its beginning on.

    Streams are numbered as they came into the run, and keep their numbers when others are removed
    or the file is reordered.

    Attributes:
        streams: Every stream that the run ever had, with the number of its samples.
        means: Tokens of a sample of each, as they were resolved when it came into the run, or when
            weights or lengths first counted tokens; estimates until then.
        seen: Samples that each had given when the state was loaded. What those that are in the data
            give after that is counted by the run itself.
        tokens: Target tokens, likewise.
        present: The number of each stream that is in the data, in the data's order.
        stages: The stages that positions belong to: those so far, and those that lie ahead.
        planned: The stages of the configuration. A stage that was begun by a change in mid-run is
            not among them.
        carried: For each stream in the data, its number among those that were in the data when the
            loaded state was saved; None for one that was not. Empty where nothing was loaded.
        carried_from: How many streams were in the data then.
    """

    streams: tuple[StreamIdentity, ...]
    means: tuple[TokenMean, ...]
    seen: tuple[int, ...]
    tokens: tuple[int, ...]
    present: tuple[int, ...]
    stages: tuple[Stage, ...]
    planned: tuple[Stage, ...]
    carried: tuple[int | None, ...] = ()
    carried_from: int = 0

    def to_content(self, now: Sequence[StreamIdentity]) -> dict[str, Any]:
        """As JSON values, with what is known by now of the content of the streams in the data."""
        streams = list(self.streams)
        for number, known in zip(self.present, now, strict=True):
            streams[number] = replace(known, content=known.content or streams[number].content)
        return {
            "streams": [
                {
                    **{name: value for name, value in vars(stream).items() if value is not None},
                    "millitokens": mean.millitokens,
                    "estimated": mean.estimated,
                    "seen": seen,
                    "tokens": tokens,
                }
                for stream, mean, seen, tokens in zip(
                    streams, self.means, self.seen, self.tokens, strict=True
                )
            ],
            "present": list(self.present),
            "stages": [_stage_content(stage) for stage in self.stages],
            "planned": [_stage_content(stage) for stage in self.planned],
        }

    @classmethod
    def from_content(cls, content: object, nodes: int, streams: int) -> "RunStages":
        """The stages in JSON values, of a run that had so many streams when it was saved.

        Raises:
            MosaicDataError: A part of it is missing, unknown, or impossible.
        """
        if not isinstance(content, dict):
            raise damaged(f"stages is {shown(content)}, not an object")
        refuse_unknown(content, ("streams", "present", "stages", "planned"), "stages")
        listed = read_list(content.get("streams"), "stages.streams")
        if not 0 < len(listed) <= _MOST_STREAMS:
            raise damaged(f"stages.streams has {len(listed):,} streams")
        known, counts = [], []
        for number, one in enumerate(listed):
            where = f"stages.streams {number}"
            values = dict(one) if isinstance(one, dict) else {}
            counts.append(_Counted(**take_fields(_Counted, values, where)))
            known.append(read_fields(StreamIdentity, values, where))
            if not known[-1].samples or not counts[-1].millitokens:
                raise damaged(f"{where} has no samples or no tokens")
        present = read_list(content.get("present"), "stages.present")
        if len(present) != streams or len({*map(repr, present)}) != streams:
            raise damaged(f"stages.present does not number {streams} streams")
        for number in present:
            if type(number) is not int or not 0 <= number < len(known):
                raise damaged(f"stages.present has {shown(number)}, which is not a stream")
        return cls(
            streams=tuple(known),
            means=tuple(TokenMean(one.millitokens, _KEPT, one.estimated) for one in counts),
            seen=tuple(count.seen for count in counts),
            tokens=tuple(count.tokens for count in counts),
            present=tuple(present),
            stages=_read_stages(content.get("stages"), "stages.stages", nodes, len(known)),
            planned=_read_stages(content.get("planned"), "stages.planned", nodes, len(known)),
        )


@dataclass(frozen=True)
class PresentStage:
    """The stage that a run is in.

    Attributes:
        number: Its number, from 1, among all stages of the run: those that a change in mid-run
            began are counted as well.
        count: Stages of the run.
        weights: The share of each stream that is drawn from, by name: of the samples, or of the
            tokens where weights count tokens.
    """

    number: int
    count: int
    weights: dict[str, float]

    def __str__(self) -> str:
        """In words, such as ``stage 2 of 3``."""
        return f"stage {self.number} of {self.count}"

    @property
    def mixture(self) -> str:
        """The weights in words, such as ``web 0.8, code 0.2``."""
        return ", ".join(f"{name} {weight:.3g}" for name, weight in self.weights.items())


def present_stage(run: RunStages, position: int, weights_in: str) -> PresentStage:
    """The stage that a position of the order lies in; its weights count samples or tokens."""
    number = bisect_right([stage.start for stage in run.stages], position)
    counts = run.stages[number - 1].counts
    weights = weighed(counts, [mean.millitokens for mean in run.means], weights_in)
    names = [stream.name for stream in run.streams]
    drawn = {
        name: weight for name, weight, count in zip(names, weights, counts, strict=True) if count
    }
    return PresentStage(number, len(run.stages), drawn)


def weighed(counts: Sequence[int], millitokens: Sequence[int], weights_in: str) -> list[float]:
    """Shares of streams, as their weights count them.

    Worked example: of documents of 30 and of 300 tokens, equally many are drawn. In samples the
    shares are 0.5 and 0.5, in tokens 0.09 and 0.91.

    ``counts`` are samples drawn from each stream, and ``millitokens`` thousandths of the tokens of
    a sample of each.
    """
    sizes = millitokens if weights_in == "tokens" else [1] * len(counts)
    drawn = [count * size for count, size in zip(counts, sizes, strict=True)]
    return [own / sum(drawn) for own in drawn]


def stage_tokens(run: RunStages) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the stages of a packed run begin, and the tokens before each: see `tokens_before`."""
    mixtures = [(stage.start, stage.counts) for stage in run.stages]
    return tokens_before(mixtures, [mean.millitokens for mean in run.means])


@dataclass(frozen=True)
class _Counted:
    millitokens: int
    estimated: bool = False
    seen: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Reached:
    """How far a run has drawn from its order.

    Attributes:
        low: Every position before it was drawn.
        high: No position from here on was drawn. With packing, lanes lie between the two.
        lanes: By lane, the next position that it draws; none without packing.
    """

    low: int
    high: int
    lanes: tuple[int, ...] = ()


def kept_means(millitokens: Sequence[int]) -> tuple[TokenMean, ...]:
    """Means that a state holds."""
    return tuple(TokenMean(size, _KEPT) for size in millitokens)


def first_stages(
    config: StageConfig,
    streams: Sequence[StreamIdentity],
    means: Sequence[TokenMean],
    nodes: int,
) -> RunStages:
    """The stages of a new run over so many canonical nodes.

    Raises:
        MosaicDataError: A stage is longer than any run.
    """
    numbers = tuple(range(len(streams)))
    planned = plan_stages(
        config,
        names=[stream.name for stream in streams],
        numbers=numbers,
        millitokens=[mean.millitokens for mean in means],
        nodes=nodes,
    )
    none = (0,) * len(streams)
    return RunStages(tuple(streams), tuple(means), none, none, numbers, planned, planned)


def with_present_data(
    saved: RunStages,
    streams: Sequence[StreamIdentity],
    token_mean: Callable[[int], TokenMean],
    seen: Sequence[int],
    tokens: Sequence[int],
    *,
    begun: bool = True,
) -> RunStages:
    """The stages of a saved run, with the streams that are in the data now.

    A stream is known by its content: by the digest of its index, and by some of its samples where
    that holds no hashes. Where several streams have the same content, the name decides.

    Args:
        saved: The stages as they were saved.
        streams: The streams in the data.
        token_mean: Tokens of a sample of one of these, by its number. Asked for those that are new
            to the run, and for those of which only an estimate was saved.
        seen: Samples of each stream that was in the data when the state was saved.
        tokens: Target tokens of each of these.
        begun: Whether the saved run had handed out a batch; before that, nothing is resolved.
    """
    all_seen, all_tokens = list(saved.seen), list(saved.tokens)
    for number, one, other in zip(saved.present, seen, tokens, strict=True):
        all_seen[number], all_tokens[number] = one, other
    left = dict(enumerate(saved.streams))
    found: dict[int, int] = {}
    for same_name in (True, False):
        for place, stream in enumerate(streams):
            for number, known in left.items():
                if place not in found and _same(known, stream, same_name):
                    found[place] = number
            left.pop(found.get(place, -1), None)
    known_streams, means = list(saved.streams), list(saved.means)
    for place, stream in enumerate(streams):
        if place not in found:
            found[place] = len(known_streams)
            known_streams.append(stream)
            means.append(token_mean(place))
            all_seen.append(0)
            all_tokens.append(0)
        else:
            # It may have another name by now.
            before = known_streams[found[place]]
            known_streams[found[place]] = replace(before, name=stream.name)
            if means[found[place]].estimated or not begun:
                means[found[place]] = token_mean(place)
    more = (0,) * (len(known_streams) - len(saved.streams))
    place_of = {number: place for place, number in enumerate(saved.present)}
    present = tuple(found[place] for place in range(len(streams)))
    return RunStages(
        streams=tuple(known_streams),
        means=tuple(means),
        seen=tuple(all_seen),
        tokens=tuple(all_tokens),
        present=present,
        stages=tuple(Stage(s.start, s.counts + more) for s in saved.stages),
        planned=tuple(Stage(s.start, s.counts + more) for s in saved.planned),
        carried=tuple(place_of.get(number) for number in present),
        carried_from=len(saved.present),
    )


def continued_stages(
    config: StageConfig,
    before: RunStages,
    *,
    nodes: int,
    reached: Reached | None,
    new_stage: bool,
    unit: str,
) -> RunStages:
    """The stages of a run that is resumed, by the present configuration.

    Args:
        config: The present options.
        before: The stages of the run so far, with the streams that are in the data now.
        nodes: Canonical nodes of the run.
        reached: How far the run has come; None where that is not known.
        new_stage: Begin a new stage where the present one, or an earlier one, was changed.
        unit: What positions count, for messages.

    Raises:
        MosaicDataError: A stage that has begun was changed, and no new one is to begin; or a stream
            is missing that is still needed.
    """
    planned = plan_stages(
        config,
        names=[before.streams[number].name for number in before.present],
        numbers=before.present,
        millitokens=[mean.millitokens for mean in before.means],
        nodes=nodes,
    )
    if planned == before.planned:
        return before
    if reached is None:
        raise MosaicDataError(
            "the stages or the data changed, and with packing how far the run has come is known "
            "only from the lanes of all ranks: load the entries that all ranks saved, joined"
        )
    changed = _changes(before, planned, reached.high, unit)
    if not changed:
        kept = [s for s in before.stages if s.start < reached.high or s not in before.planned]
        ahead = [s for s in planned if s.start >= reached.high]
        begins = {stage.start for stage in ahead}
        stages = [*(s for s in kept if s.start not in begins), *ahead]
        logger.info(
            "the stages after %s %d changed: %s",
            unit,
            reached.high,
            "; ".join(_described(before, stage, unit) for stage in ahead) or "none follows",
        )
    else:
        what = "; ".join(changed)
        if not new_stage:
            raise MosaicDataError(
                f"the checkpoint does not fit the present stages or data: {what}. Restore what "
                f'changed, or set on_data_change = "new_stage" in [mosaic_dataloader.dataset] to '
                f"begin a new stage with the present ones"
            )
        begin = -(-reached.high // nodes) * nodes
        present = [stage for stage in planned if stage.start <= begin][-1]
        stages = [
            *(stage for stage in before.stages if stage.start < begin),
            Stage(begin, present.counts),
            *(stage for stage in planned if stage.start > begin),
        ]
        logger.warning(
            "the stages or the data changed (%s); a new stage begins: %s",
            what,
            _described(before, Stage(begin, present.counts), unit),
        )
    return replace(
        before, stages=tuple(sorted(stages, key=lambda stage: stage.start)), planned=planned
    )


def _changes(before: RunStages, planned: Sequence[Stage], position: int, unit: str) -> list[str]:
    """What differs in the stages that began before a position, in words."""
    old = [stage for stage in before.planned if stage.start < position]
    new = [stage for stage in planned if stage.start < position]
    found: list[str] = []
    data: set[str] = set()
    for number, (was, now) in enumerate(zip(old, new, strict=False), 1):
        if was.start != now.start:
            found.append(
                f"stage {number} began at {unit} {was.start:,} and would now begin at {now.start:,}"
            )
        for stream, (drawn, draws) in enumerate(zip(was.counts, now.counts, strict=True)):
            if drawn == draws:
                continue
            changed = _data_change(before, stream)
            if changed is not None:
                data.add(changed)
                continue
            digits = 3 if _share(drawn) != _share(draws) else 7
            found.append(
                f'stage {number}: stream "{before.streams[stream].name}" had '
                f"{_share(drawn, digits)} of the {unit}s and now has {_share(draws, digits)}"
            )
    if len(old) != len(new):
        found.append(
            f"{len(old)} stage{'s' * (len(old) != 1)} had begun by {unit} {position:,}, and now "
            f"{len(new)} would have"
        )
    return [*sorted(data), *found]


def _data_change(before: RunStages, stream: int) -> str | None:
    """How the data of a stream changed, where it is one of two that have the same name."""
    name = before.streams[stream].name
    same = [number for number, one in enumerate(before.streams) if one.name == name]
    old = [number for number in same if number not in before.present]
    new = [number for number in same if number in before.present]
    if not old or not new or stream not in (old[-1], new[-1]):
        return None
    return stream_difference(before.streams[old[-1]], before.streams[new[-1]])


def _described(before: RunStages, stage: Stage, unit: str) -> str:
    shares = ", ".join(
        f"{before.streams[number].name} {_share(count)}"
        for number, count in enumerate(stage.counts)
        if count
    )
    return f"from {unit} {stage.start:,} on {shares}"


def _share(draws: int, digits: int = 3) -> str:
    return f"{100 * draws / BLOCK:.{digits}g}%"


def _same(known: StreamIdentity, stream: StreamIdentity, same_name: bool) -> bool:
    if known.digest != stream.digest or (same_name and known.name != stream.name):
        return False
    return not (known.content and stream.content) or known.content == stream.content


def _stage_content(stage: Stage) -> dict[str, Any]:
    return {"start": stage.start, "draws": list(stage.counts)}


def _read_stages(content: object, where: str, nodes: int, streams: int) -> tuple[Stage, ...]:
    listed = read_list(content, where)
    if not 0 < len(listed) <= _MOST_STAGES:
        raise damaged(f"{where} has {len(listed):,} stages")
    stages: list[Stage] = []
    for number, one in enumerate(listed):
        if not isinstance(one, dict) or set(one) != {"start", "draws"}:
            raise damaged(f"{where} {number} is not a start with draws")
        start, draws = one["start"], read_list(one["draws"], f"{where} {number} draws")
        least = stages[-1].start + 1 if stages else 0
        most = LARGEST if stages else 0
        if type(start) is not int or not least <= start <= most or start % nodes:
            raise damaged(f"{where} {number} has start = {shown(start)}, which is out of range")
        whole = all(type(count) is int and 0 <= count <= BLOCK for count in draws)
        if len(draws) != streams or not whole or sum(draws) != BLOCK:
            raise damaged(f"{where} {number} does not share {BLOCK:,} draws among its streams")
        stages.append(Stage(start, tuple(draws)))
    return tuple(stages)
