"""Handing batches from the thread that reads to the one that trains."""

import gc
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_dataloader.loader import handover as handover_module
from mosaic_dataloader.loader.background import Background
from mosaic_dataloader.loader.handover import Handover


@settings(max_examples=40, deadline=None)
@given(
    depth=st.integers(1, 9),
    count=st.integers(0, 300),
    slow_producer=st.integers(0, 50),
    slow_consumer=st.integers(0, 50),
)
def test_items_arrive_in_order_and_never_more_than_fit(
    depth: int, count: int, slow_producer: int, slow_consumer: int
) -> None:
    made = taken = 0
    most = 0

    def source() -> Iterator[int]:
        nonlocal made, most
        for number in range(count):
            if slow_producer and number % slow_producer == 0:
                time.sleep(0.0005)
            made += 1
            most = max(most, made - taken)
            yield number

    arrived = []
    background = Background(source(), depth)
    for number in background:
        taken += 1
        arrived.append(number)
        if slow_consumer and number % slow_consumer == 0:
            time.sleep(0.0005)
    assert arrived == list(range(count))
    # As many as there are places, the one being taken and the one being made.
    assert most <= depth + 2
    with pytest.raises(StopIteration):
        next(background)


def test_an_item_does_not_wait_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even one that came right after the consumer began to wait, and so woke nobody."""
    monkeypatch.setattr(handover_module, "_GROUP_SECONDS", 0.5)
    waits, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        waits.wait(60)
        time.sleep(0.05)
        yield 1
        go_on.wait(60)
        yield 2

    background = Background(source(), 8)
    threading.Timer(0.1, waits.set).start()
    # The second one can only come once the first is here.
    assert next(background) == 1
    go_on.set()
    assert next(background) == 2
    background.close()


def test_an_error_comes_after_what_was_read_before_it_and_stays() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    background = Background(source(), 8)
    assert [next(background), next(background)] == [1, 2]
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            next(background)


@pytest.mark.parametrize("depth", [1, 4])
def test_closing_ends_the_thread_wherever_it_is(depth: int) -> None:
    ended = threading.Event()

    def source() -> Iterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            ended.set()

    background = Background(source(), depth)
    assert next(background) == 0
    # Dropped, with the thread waiting for a place.
    del background
    gc.collect()
    assert ended.wait(30)


def test_closing_frees_a_consumer_in_another_thread() -> None:
    stuck = threading.Event()

    def source() -> Iterator[int]:
        stuck.wait(60)
        yield 1

    background = Background(source(), 2)
    ended = threading.Event()

    def consume() -> None:
        assert list(background) in ([], [1])
        ended.set()

    threading.Thread(target=consume, daemon=True).start()
    time.sleep(0.05)
    threading.Timer(0.2, stuck.set).start()
    background.close()
    assert ended.wait(30)


def test_idle_work_is_done_while_there_is_no_place() -> None:
    calls = threading.Event()
    handover: Handover[int] = Handover(1)
    thread = threading.Thread(target=handover.put, args=(1, calls.set), daemon=True)
    thread.start()
    assert calls.wait(30)
    handover.close()
    thread.join(30)
    assert not thread.is_alive()


class Consumer:
    """Takes an item every so often, by a clock that only a sleeping producer moves.

    It stands in for the lock that the producer sleeps on.
    """

    def __init__(self, handover: Handover[int], every: float):
        self.handover, self.every = handover, every
        self.now = self.next_at = 0.0
        self.sleeps = self.woken = 0
        self.fewest = handover._depth
        self._awake = False

    def acquire(self, timeout: float) -> bool:
        self.sleeps += 1
        until = self.now + timeout
        while self.next_at <= until:
            self.now = self.next_at
            self.next_at += self.every
            self.handover.get()
            self.fewest = min(self.fewest, len(self.handover.items))
            if self._awake:
                self._awake = False
                return True
        self.now = until
        return False

    def release(self) -> None:
        self.woken += 1
        self._awake = True


@pytest.mark.parametrize("every", [0.003, 0.005, 0.02, 0.35])
@pytest.mark.parametrize("depth", [4, 16])
def test_a_producer_comes_by_itself_so_that_no_step_pays_for_waking_it(
    monkeypatch: pytest.MonkeyPatch, depth: int, every: float
) -> None:
    handover: Handover[int] = Handover(depth)
    consumer = Consumer(handover, every)
    monkeypatch.setattr(handover, "_space", consumer)
    monkeypatch.setattr(time, "perf_counter", lambda: consumer.now)
    for number in range(4 * depth):
        handover.put(number)
    sleeps = consumer.sleeps
    consumer.woken, consumer.fewest = 0, depth
    for number in range(100 * depth):
        handover.put(number)
    assert consumer.woken == 0
    assert consumer.fewest >= depth // 2 - 1
    # Two or so for half of the places; slow consumers let it look for other things to do as well.
    assert consumer.sleeps - sleeps < 3 * 200 + 10 * 100 * depth * every


def test_a_consumer_that_became_faster_wakes_the_producer(monkeypatch: pytest.MonkeyPatch) -> None:
    handover: Handover[int] = Handover(16)
    consumer = Consumer(handover, 0.01)
    monkeypatch.setattr(handover, "_space", consumer)
    monkeypatch.setattr(time, "perf_counter", lambda: consumer.now)
    for number in range(160):
        handover.put(number)
    consumer.woken, consumer.every = 0, 0.001
    for number in range(32):
        handover.put(number)
    # With some items left.
    assert consumer.woken >= 1
    assert consumer.fewest == 4
    consumer.woken = 0
    for number in range(160):
        handover.put(number)
    assert consumer.woken == 0, "by now it should know"


def test_nothing_is_added_to_what_was_closed() -> None:
    handover: Handover[int] = Handover(4)
    assert handover.put(1)
    handover.close()
    handover.clear()
    assert not handover.put(2)
    handover.end(StopIteration())
    for _ in range(2):
        with pytest.raises(StopIteration):
            handover.get()
