"""Epoch orders on disk: built once for all, found again, and nothing left of killed builders."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from order_helpers import mixture, resolved

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.order import sequence as sequence_module
from mosaic_dataloader.order.epoch import ListedEpoch, build_epoch
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.storage import stored_order_files as files_module
from mosaic_dataloader.storage import stored_orders as store_module
from mosaic_dataloader.storage.stored_order_files import OrderKey, name_of
from mosaic_dataloader.storage.stored_orders import StoredOrders
from mosaic_dataloader.util.locks import RangeLock

# Asks for an epoch and says who built it and what it begins with.
ASKER = """
import sys
from mosaic_dataloader.storage.stored_order_files import OrderKey
from mosaic_dataloader.storage.stored_orders import StoredOrders
key = OrderKey.from_json(sys.argv[2])
store = StoredOrders(sys.argv[1], key.mixture, key.options)
started = []
spawn = store._spawn
store._spawn = lambda *given: started.append(1) or spawn(*given)
order = store.load(int(sys.argv[3]))
print(len(started), order.ids[:5].tolist(), "torch" in sys.modules)
"""


@pytest.fixture
def data() -> Mixture:
    return mixture([[50] * 40, [30, 70] * 30], [1500, 4000])


@pytest.fixture(params=["random", "stratified"])
def options(request: pytest.FixtureRequest) -> ResolvedOrder:
    return resolved(shuffle=True, num_canonical_nodes=4, batching_method=request.param)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "orders"


def folders(root: Path) -> list[str]:
    return sorted(p.name for p in root.glob("*/*") if p.is_dir())


def loaded(orders: StoredOrders, epoch: int) -> ListedEpoch:
    order = orders.load(epoch)
    assert order is not None
    return order


def wait_for_folders(root: Path, *expected: str) -> None:
    """Old orders are removed in the background."""
    deadline = time.monotonic() + 60
    while folders(root) != [*expected]:
        assert time.monotonic() < deadline, folders(root)
        time.sleep(0.02)


def test_a_stored_order_is_the_order(root: Path, data: Mixture, options: ResolvedOrder) -> None:
    store = StoredOrders(str(root), data, options)
    for epoch in (0, 1, 2, 5):
        stored, fresh = loaded(store, epoch), build_epoch(data, options, epoch)
        for got, expected in zip(
            stored.rows(0, len(fresh)), fresh.rows(0, len(fresh)), strict=True
        ):
            assert got.dtype == np.int64
            assert np.array_equal(got, expected)
        with pytest.raises(ValueError, match="read-only"):
            stored.ids[0] = 1
    # Those that lie behind are gone.
    wait_for_folders(root, "5")
    # Another seed is another key.
    other = StoredOrders(str(root), data, resolved(shuffle=True, shuffle_seed=3))
    other.load(0)
    assert folders(root) == ["0", "5"]


def test_an_order_is_found_again_under_its_own_name_only(
    root: Path, data: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = resolved(shuffle=True, num_canonical_nodes=4)
    others = [
        (mixture([[50] * 39 + [51], [30, 70] * 30], [1500, 4000]), options),
        (mixture([[50] * 40, [30, 70] * 30], [1501, 3999]), options),
        (mixture([[50] * 40 + [30, 70] * 30], [5500]), options),
        (data, resolved(shuffle=True, num_canonical_nodes=2)),
        (data, resolved(shuffle=True, num_canonical_nodes=4, shuffle_seed=1)),
    ]
    names = {name_of(OrderKey(*key).to_json()) for key in [(data, options), *others]}
    assert len(names) == 1 + len(others)
    assert name_of(OrderKey(data, options).to_json()) in names
    # What is under that name is not what another mixture is given.
    loaded(StoredOrders(str(root), data, options), 0)
    found = loaded(StoredOrders(str(root), *others[0]), 0)
    built = build_epoch(*others[0], 0)
    assert isinstance(built, ListedEpoch)
    assert np.array_equal(found.ids, built.ids)
    # The libraries make the order, too.
    monkeypatch.setattr(
        "mosaic_dataloader.storage.stored_order_files.version", lambda library: "99"
    )
    assert name_of(OrderKey(data, options).to_json()) not in names


def test_one_process_builds_and_all_find_it(root: Path, data: Mixture) -> None:
    options = resolved(shuffle=True)
    command = [sys.executable, "-c", ASKER, str(root), OrderKey(data, options).to_json()]
    askers = [
        subprocess.Popen([*command, "3"], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    answers = [asker.communicate(timeout=120)[0].split(maxsplit=1) for asker in askers]
    assert sorted(count for count, _ in answers) == ["0", "0", "0", "1"]
    expected = build_epoch(data, options, 3).rows(0, 5)[0].tolist()
    # And none of them, nor the builder, needed torch.
    assert {rest.strip() for _, rest in answers} == {f"{expected} False"}
    # After a restart nothing is built, and the file is the same.
    (ids,) = root.glob("*/3/ids.npy")
    before = ids.stat().st_mtime_ns
    again = StoredOrders(str(root), data, options)
    assert loaded(again, 3).rows(0, 5)[0].tolist() == expected
    assert not again._building
    assert ids.stat().st_mtime_ns == before


def test_a_killed_builder_leaves_nothing_in_the_way(
    root: Path, data: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = resolved(shuffle=True)
    first = StoredOrders(str(root), data, options)
    first.prepare(0)
    builder = first._building[0]
    # Stopped before it can end, with a folder half written.
    os.kill(builder.pid, signal.SIGSTOP)
    partial = next(root.iterdir()) / "0.partial-1"
    partial.mkdir()
    (partial / "ids.npy").write_bytes(b"half")
    second = StoredOrders(str(root), data, options)
    assert not second.holds(0)
    second._start(0, nice=0)
    assert not second._building, "somebody else builds it"
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    expected = build_epoch(data, options, 0).rows(0, 50)[0]
    assert np.array_equal(loaded(second, 0).rows(0, 50)[0], expected)
    assert folders(root) == ["0"]
    # The one whose builder was killed is no worse off.
    assert np.array_equal(loaded(first, 0).rows(0, 50)[0], expected)


def test_a_builder_that_fails_says_why(root: Path, data: Mixture) -> None:
    too_many = resolved(shuffle=True, num_canonical_nodes=100_000)
    with pytest.raises(MosaicDataError, match="100000 canonical nodes"):
        StoredOrders(str(root), data, too_many).load(0)
    dying = StoredOrders(str(root), data, resolved(shuffle=True))
    dying.prepare(0)
    dying._building[0].kill()
    dying._building[0].wait()
    with pytest.raises(MosaicDataError, match="epoch 0 ended with status -9"):
        dying.load(0)


def test_orders_in_use_are_kept_and_forgotten_recipes_go(
    root: Path, data: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = resolved(shuffle=True)
    slow, fast = (StoredOrders(str(root), data, options) for _ in range(2))
    slow.load(0)
    for epoch in range(5):
        fast.load(epoch)
    wait_for_folders(root, "0", "3", "4")
    slow._uses.close()
    fast.load(5)
    wait_for_folders(root, "4", "5")
    monkeypatch.setattr(store_module, "_FORGOTTEN_SECONDS", -1.0)
    other = resolved(shuffle=True, shuffle_seed=1)
    assert not StoredOrders(str(root), data, other).holds(0)
    assert folders(root) == ["4", "5"], "somebody uses them"
    fast._uses.close()
    assert not StoredOrders(str(root), data, other).holds(0)
    assert folders(root) == []


def test_the_next_epoch_is_prepared_and_the_sequence_is_the_same(
    root: Path, data: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_module, "_SHORT", 100)
    options = resolved(shuffle=True)
    orders = StoredOrders(str(root), data, options)
    stored = EpochSequence(data, options, stored=orders)
    in_memory = EpochSequence(data, options)
    length = stored.epoch_length
    stored.prepare_next(length // 8)
    assert not root.exists()
    stored.prepare_next(length // 3)
    assert list(orders._building) == [1]
    deadline = time.monotonic() + 60
    while "1" not in folders(root):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    spawned = []
    monkeypatch.setattr(StoredOrders, "_spawn", lambda *given: spawned.append(given))
    stored.prepare_next(length // 2)
    assert 1 not in stored._orders
    # Towards the end of an epoch the next one is mapped, so that the change costs nothing.
    stored.prepare_next(length - 1)
    assert 1 in stored._orders
    assert not spawned
    monkeypatch.undo()
    monkeypatch.setattr(sequence_module, "_SHORT", 100)
    for begin in range(length - 500, 2 * length, 731):
        for got, expected in zip(
            stored.rows(begin, begin + 1000), in_memory.rows(begin, begin + 1000), strict=True
        ):
            assert np.array_equal(got, expected)


def test_what_is_given_back_piece_by_piece_can_be_read_again(
    root: Path, data: Mixture, options: ResolvedOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is under way may still hold a view of it."""
    monkeypatch.setattr(files_module, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(files_module, "_PIECE", 1 << 12)
    order = loaded(StoredOrders(str(root), data, options), 0)
    held, nodes = order.ids[100:200], order.nodes
    before = held.copy(), None if nodes is None else nodes.copy()
    resident = mapped_pages(order.ids)
    files_module.release_pages(order)
    assert resident > 0
    assert mapped_pages(order.ids) == 0
    assert np.array_equal(held, before[0])
    assert nodes is None or np.array_equal(nodes, before[1])


def test_short_epochs_in_memory_start_no_thread(data: Mixture) -> None:
    sequence = EpochSequence(data, resolved(shuffle=True))
    before = set(threading.enumerate())
    for epoch in range(20):
        sequence.epoch(epoch)
    assert set(threading.enumerate()) <= before


def mapped_pages(array: Any) -> int:
    """KiB of a mapped file's pages that this process has in its page table."""
    address = array.ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(found[1], 16) <= address < int(found[2], 16)
        elif inside and line.startswith("Rss:"):
            return int(line.split()[1])
    raise AssertionError("it is not mapped")


def test_where_nothing_can_be_written_it_says_what_that_costs(
    tmp_path: Path, data: Mixture, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_module, "_SHORT", 100)
    (tmp_path / "orders").write_text("a file where a folder is wanted")
    options = resolved(shuffle=True)
    sequence = EpochSequence(
        data, options, stored=StoredOrders(str(tmp_path / "orders"), data, options)
    )
    assert np.array_equal(sequence.rows(0, 9)[0], build_epoch(data, options, 0).rows(0, 9)[0])
    assert "every rank computes them for itself" in caplog.text
    assert "Set cache_dir" in caplog.text


def test_a_lock_is_left_to_a_child(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = RangeLock(path)
    assert lock.try_exclusive(5)
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=[lock.fileno()],
    )
    lock.hand_over_to_child()
    assert not RangeLock(path).try_exclusive(5)
    child.communicate(b"")
    assert RangeLock(path).try_exclusive(5)


def test_a_process_forked_while_a_builder_starts_keeps_nothing_of_it(
    root: Path, data: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation's workers may be forked while the training loader prepares its next epoch.

    One that inherits the pipe by which a started program says that it runs keeps it open.
    """
    at_the_fork, may_end = threading.Event(), multiprocessing.get_context("fork").Event()
    start = subprocess._fork_exec  # type: ignore[attr-defined]

    def slow_start(*given: object) -> int:
        at_the_fork.set()
        time.sleep(0.5)
        return int(start(*given))

    store = StoredOrders(str(root), data, resolved(shuffle=True, num_canonical_nodes=4))
    monkeypatch.setattr(subprocess, "_fork_exec", slow_start)
    thread = threading.Thread(target=store.prepare, args=(0,), daemon=True)
    thread.start()
    assert at_the_fork.wait(20)
    worker = multiprocessing.get_context("fork").Process(target=may_end.wait, args=(60,))
    worker.start()
    thread.join(20)
    try:
        assert not thread.is_alive(), "it waits for the end of the worker"
        assert len(loaded(store, 0).ids) == data.epoch_samples
    finally:
        may_end.set()
        worker.join()
