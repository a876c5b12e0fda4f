"""Handing batches from the thread that reads to the one that trains."""

import gc
import itertools
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.reading import prefetch as prefetch_module
from mosaic_dataloader.reading.prefetch import PrefetchIterator, PrefetchQueue, prefetch
from mosaic_dataloader.util import threads


def ahead(source: Iterator[int], depth: int) -> PrefetchIterator[int, None]:
    """The items of a source, of which nothing is noted."""
    return prefetch(((item, None) for item in source), depth, on_taken=lambda progress: None)


@settings(max_examples=settings().max_examples // 4)
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
    background = ahead(source(), depth)
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
    monkeypatch.setattr(prefetch_module, "_GROUP_SECONDS", 0.5)
    waits, go_on = threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        waits.wait(60)
        time.sleep(0.05)
        yield 1
        go_on.wait(60)
        yield 2

    background = ahead(source(), 8)
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

    background = ahead(source(), 8)
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

    background = ahead(source(), depth)
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

    background = ahead(source(), 2)
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
    handover: PrefetchQueue[tuple[int, None]] = PrefetchQueue(1)
    thread = threading.Thread(target=handover.put, args=((1, None), calls.set), daemon=True)
    thread.start()
    assert calls.wait(30)
    handover.close()
    thread.join(30)
    assert not thread.is_alive()


class Consumer:
    """Takes an item every so often, by a clock that only a sleeping producer moves.

    It stands in for the lock that the producer sleeps on.
    """

    def __init__(self, depth: int, every: float):
        self.now = self.next_at = 0.0
        self.handover: PrefetchQueue[tuple[int, None]] = PrefetchQueue(depth, lambda: self.now)
        self.handover._space = self  # type: ignore[assignment]
        self.taker = PrefetchIterator(self.handover, on_taken=lambda progress: None)
        self.every = every
        self.sleeps = self.woken = 0
        self.fewest = depth
        self._awake = False

    def acquire(self, timeout: float) -> bool:
        self.sleeps += 1
        until = self.now + timeout
        while self.next_at <= until:
            self.now = self.next_at
            self.next_at += self.every
            next(self.taker)
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
    depth: int, every: float
) -> None:
    consumer = Consumer(depth, every)
    handover = consumer.handover
    for number in range(4 * depth):
        handover.put((number, None))
    sleeps = consumer.sleeps
    consumer.woken, consumer.fewest = 0, depth
    for number in range(100 * depth):
        handover.put((number, None))
    assert consumer.woken == 0
    assert consumer.fewest >= depth // 2 - 1
    # Two or so for half of the places; slow consumers let it look for other things to do as well.
    assert consumer.sleeps - sleeps < 3 * 200 + 10 * 100 * depth * every


def test_a_consumer_that_became_faster_wakes_the_producer() -> None:
    consumer = Consumer(16, 0.01)
    handover = consumer.handover
    for number in range(160):
        handover.put((number, None))
    consumer.woken, consumer.every = 0, 0.001
    for number in range(32):
        handover.put((number, None))
    # With some items left.
    assert consumer.woken >= 1
    assert consumer.fewest == 4
    consumer.woken = 0
    for number in range(160):
        handover.put((number, None))
    assert consumer.woken == 0, "by now it should know"


def test_nothing_is_added_to_what_was_closed() -> None:
    handover: PrefetchQueue[tuple[int, None]] = PrefetchQueue(4)
    taker = PrefetchIterator(handover, on_taken=lambda progress: None)
    assert handover.put((1, None))
    taker.close()
    assert not handover.put((2, None))
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(taker)


def test_a_second_thread_is_refused_and_the_first_one_gets_its_batch() -> None:
    """Else one of them would sleep forever, or their order and the position be anybody's guess."""
    go_on, got = threading.Event(), []

    def source() -> Iterator[int]:
        yield 1
        go_on.wait(60)
        yield 2

    background = ahead(source(), 4)
    assert next(background) == 1
    first = threading.Thread(target=lambda: got.append(next(background)), daemon=True)
    first.start()
    while not background._busy:
        time.sleep(0.001)
    with pytest.raises(MosaicDataError, match="two threads asked one iterator"):
        next(background)
    go_on.set()
    first.join(30)
    # In turns, they may.
    assert got == [2]
    with pytest.raises(StopIteration):
        next(background)


def test_a_close_that_was_interrupted_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    background = ahead(itertools.count(), 4)
    assert next(background) == 0

    def interrupted(groups: object, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threads, "_join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        background.close()
    monkeypatch.undo()
    background.close()
    with pytest.raises(StopIteration):
        next(background)
    group = background._group
    assert group is not None
    assert not any(thread.is_alive() for thread in group.threads)


def test_what_does_not_end_is_named_and_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them in the time of one."""
    monkeypatch.setattr(threads, "_QUIET_SECONDS", 0.1)
    monkeypatch.setattr(threads, "_EXIT_SECONDS", 1.0)
    done = threading.Event()

    def stuck() -> None:
        done.wait()

    groups = [threads.ThreadGroup([stuck], f"stuck-{number}") for number in range(8)]
    waiting = threads.ThreadGroup([lambda: threads.sleep(600)], "waiting")
    begun = time.monotonic()
    threads._stop_all()
    # Eight times as long, one after another.
    assert time.monotonic() - begun < 4.0
    assert not waiting.threads[0].is_alive()
    told = [record.message for record in caplog.records]
    assert "in the middle of something: stuck-0, stuck-1" in told[0]
    assert "not waiting any longer for stuck-0, stuck-1" in told[1]
    assert "waiting" not in told[1].split("for", 1)[1]
    done.set()
    for group in groups:
        group.close()
