"""A trainer that fetches batches ahead says itself which it has trained on."""

from collections import deque
from typing import Any

import pytest
from dataloader_helpers import loader, numbers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mosaic_dataloader import MosaicDataError


class Trainer:
    """Holds batches that it has fetched and not trained on, as Lightning and Accelerate do."""

    def __init__(self, data: Any, ahead: int):
        self.loader, self.ahead = data, ahead
        self.trained: list[list[int]] = []

    def one_pass(self, most: int) -> int:
        """Train on up to so many batches of one iteration; how many there were."""
        held: deque[Any] = deque()
        batches, before = iter(self.loader), len(self.trained)
        while len(self.trained) - before < most:
            while len(held) <= self.ahead and (batch := next(batches, None)) is not None:
                held.append(batch)
            if not held:
                break
            self.trained.append(numbers(held.popleft()))
            self.loader.confirm()
        return len(self.trained) - before


@settings(max_examples=settings().max_examples // 4)
@given(
    legs=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from([1, 2, 4, 8]), st.integers(0, 40)),
        min_size=2,
        max_size=4,
    ),
    # The whole order, or one iteration after another that leaves out an epoch's last batch.
    infinite=st.booleans(),
)
# Over an epoch's end with its last batch still held; the next life begins right after it.
@example(legs=[(3, 2, 41), (1, 1, 2)], infinite=False)
@example(legs=[(2, 4, 45), (0, 8, 40)], infinite=False)
def test_whatever_is_fetched_ahead_the_position_is_that_of_the_batches_trained_on(
    numbered: str, legs: list[tuple[int, int, int]], infinite: bool
) -> None:
    # 1,003 samples in global batches of 24: 41 full ones and a rest of 19.
    options: dict[str, Any] = {"infinite": infinite, "shuffle_block_size": 64, "predownload": 0}
    reference = loader(numbered, batch_size=24, **options)
    trained: list[list[int]] = []
    state = reference.state_dict()
    for ahead, ranks, steps in legs:
        sides = [
            Trainer(
                loader(
                    numbered,
                    batch_size=24 // ranks,
                    dp_rank=rank,
                    dp_world_size=ranks,
                    confirm_batches=True,
                    **options,
                ),
                ahead,
            )
            for rank in range(ranks)
        ]
        for side in sides:
            side.loader.load_state_dict(state)
            left = steps
            while left and (done := side.one_pass(left)):
                left -= done
        trained += [
            sorted(row for rows in together for row in rows)
            for together in zip(*(side.trained for side in sides), strict=True)
        ]
        states = {side.loader.state_dict()["mosaic"] for side in sides}
        assert len(states) == 1
        state = sides[0].loader.state_dict()
        for side in sides:
            side.loader.close()
    expected: list[list[int]] = []
    while len(expected) < len(trained):
        for batch in reference:
            expected.append(sorted(numbers(batch)))
            if len(expected) == len(trained):
                break
    assert trained == expected
    reference.close()


def test_a_new_iteration_hands_out_again_what_was_not_confirmed(numbered: str) -> None:
    data = loader(numbered, confirm_batches=True)
    first = iter(data)
    one, two, three = (numbers(next(first)) for _ in range(3))
    assert (data.samples_seen, data.samples_per_stream) == (0, {"data": 0})
    data.confirm()
    data.close()
    # A trainer may end its loop before it says that the last step is done.
    data.confirm()
    assert (data.samples_seen, data.samples_per_stream) == (16, {"data": 16})
    again = iter(data)
    # What was handed out before waits no longer; nor does it after a load.
    with pytest.raises(MosaicDataError, match=r"with 0 unconfirmed"):
        data.confirm()
    assert numbers(next(again)) == three
    state = data.state_dict()
    data.load_state_dict(state)
    with pytest.raises(MosaicDataError, match=r"with 0 unconfirmed"):
        data.confirm()
    assert numbers(next(iter(data))) == three
    assert len({tuple(one), tuple(two), tuple(three)}) == 3


def test_a_pass_ends_when_its_last_batch_is_confirmed(numbered: str) -> None:
    data = loader(numbered, batch_size=24, infinite=False, confirm_batches=True)
    for ends, length in ((0, 1003), (1003, 2006)):
        assert len(list(data)) == 41
        assert data.samples_seen == ends, "nothing was confirmed"
        data.confirm(40)
        assert data.samples_seen == ends + 40 * 24
        data.confirm()
        # With the rest of the epoch, which fills no batch.
        assert data.samples_seen == length
    # Where nothing waits, it ends at once.
    batches = iter(data)
    for _ in range(41):
        next(batches)
        data.confirm()
    assert data.samples_seen == 2006 + 41 * 24
    assert next(batches, None) is None
    assert data.samples_seen == 3009


def test_confirming_too_much_too_little_or_in_vain_is_told(
    numbered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = loader(numbered, confirm_batches=True)
    batches = iter(data)
    next(batches)
    with pytest.raises(MosaicDataError, match=r"confirm\(2\) with 1 unconfirmed"):
        data.confirm(2)
    data.confirm()
    assert data.samples_seen == 8
    with pytest.raises(MosaicDataError, match=r"confirm\(1\) with 0 unconfirmed"):
        data.confirm()
    with pytest.raises(MosaicDataError, match="none of them confirmed"):
        for _ in range(1025):
            next(batches)
    data.confirm(1024)
    assert data.samples_seen == 8 * 1025
    with pytest.raises(MosaicDataError, match="made with confirm_batches"):
        loader(numbered).confirm()
