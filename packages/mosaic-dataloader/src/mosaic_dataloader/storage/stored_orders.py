"""Epoch orders in the cache directory, made by the process that needs one first."""

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import TypeVar

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.epoch import ListedEpoch
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.storage.stored_order_files import (
    QUIET_SECONDS,
    REFUSED,
    UNWRITABLE,
    OrderKey,
    holds_order,
    map_order,
    name_of,
    release_pages,
)
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child, starting
from mosaic_dataloader.util.locks import LockTimeoutError, RangeLock, holder_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Orders of a key that has not been used for this long are removed, in seconds.
_FORGOTTEN_SECONDS = 7 * 24 * 3600.0
# How long it waits before it says so, or gives up waiting for a process that does not run.
_REPORT_SECONDS = 10.0
# How often a process that waits for an order looks for it.
_POLL_SECONDS = 0.01
# Held while an order of the key is in use; each other byte of the lock file belongs to one epoch.
_KEY_BYTE = 0
# An order that is about to be removed: half of one must never be found.
_GONE = ".partial-gone-"


class StoredOrders:
    """Orders of one key for an `EpochSequence`, which computes them itself where this gives None.

    Every process that needs an order asks for it; one of them has it built, in a process of its
    own, and the others wait. A process that is killed while it builds leaves a lock that is free
    and a folder that the next one removes.

    ``root`` is the folder for the orders of all keys.
    """

    def __init__(self, root: str, mixture: Mixture, options: ResolvedOrder):
        self._root = root
        self._key = OrderKey(mixture, options)
        self._folder = ""
        self._unusable = False
        self._used: set[int] = set()
        self._building: dict[int, subprocess.Popen[str]] = {}
        reset_in_child(self)

    def load(self, epoch: int) -> ListedEpoch | None:
        """The order of an epoch; waits until it is computed. None where the folder is unusable.

        Raises:
            MosaicDataError: It cannot be computed.
            StoppedError: The thread was stopped while it waited.
        """
        return self._try(lambda: self._load(epoch))

    def prepare(self, epoch: int) -> None:
        """See `StoredEpochs`."""
        self._try(lambda: self._prepare(epoch))

    def holds(self, epoch: int) -> bool:
        """See `StoredEpochs`."""
        return bool(self._try(lambda: holds_order(self._path(epoch))))

    def release(self, order: ListedEpoch) -> None:
        """Unmap an order in a thread, so that the batches that follow do not wait for it."""
        if not self._unusable:
            threads.run_async(partial(release_pages, order), "mosaic-orders")

    def after_fork(self) -> None:
        """Forget, in a child, what only its parent uses and builds."""
        self._used.clear()
        self._building.clear()

    def _try(self, use: Callable[[], T]) -> T | None:
        """Use the folder; the run does without it from the first failure on."""
        if self._unusable:
            return None
        try:
            # Late: under this layout the order may never be needed.
            if not self._folder:
                self._open()
            return use()
        except (OSError, LockTimeoutError) as error:
            self._unusable = True
            logger.warning(
                "cannot keep epoch orders in %s (%s); every rank computes them for itself and "
                "holds two in memory, 8 bytes a sample each. Set cache_dir to a place that can be "
                "written to, and that nothing cleans during a run",
                self._root,
                getattr(error, "strerror", None) or error,
            )
            return None

    def _open(self) -> None:
        text = self._key.to_json()
        folder = os.path.join(self._root, name_of(text))
        os.makedirs(folder, exist_ok=True)
        self._lock_path = os.path.join(folder, "lock")
        # Held shared for the orders in use, as long as this object lives.
        self._uses = RangeLock(self._lock_path)
        self._uses.shared(_KEY_BYTE)
        self._key_path = os.path.join(folder, "order_key.json")
        if not os.path.exists(self._key_path):
            partial = f"{self._key_path}-{os.getpid()}"
            with open(partial, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(partial, self._key_path)
        os.utime(self._lock_path)
        self._prune_orders()
        self._folder = folder

    def _load(self, epoch: int) -> ListedEpoch:
        self._use(epoch)
        report_at = time.monotonic() + _REPORT_SECONDS
        while not holds_order(self._path(epoch)):
            self._start(epoch, nice=0)
            self._check(epoch)
            if time.monotonic() > report_at:
                holder = holder_of(self._lock_path, _build_byte(epoch))
                if "stopped" in holder:
                    raise TimeoutError(errno.ETIMEDOUT, f"{holder} computes the order")
                logger.info("waiting for the order of epoch %d, which %s computes", epoch, holder)
                report_at += 60.0
            threads.sleep(_POLL_SECONDS)
        order = map_order(self._path(epoch), self._key.options.num_canonical_nodes)
        threads.run_async(partial(self._forget_later, epoch), "mosaic-orders")
        if (process := self._building.pop(epoch, None)) is not None:
            # It has renamed its folder and is about to end.
            process.communicate()
        return order

    def _prepare(self, epoch: int) -> None:
        self._use(epoch)
        if not holds_order(self._path(epoch)):
            # Behind whatever else the machine does.
            self._start(epoch, nice=10)

    def _start(self, epoch: int, nice: int) -> None:
        """Start building, unless another process does."""
        with closing(RangeLock(self._lock_path)) as lock:
            if not lock.try_exclusive(_build_byte(epoch)) or holds_order(self._path(epoch)):
                return
            if epoch in self._building and self._building[epoch].poll() is not None:
                # It ended without an order; `_check` says why.
                return
            for name in os.listdir(self._folder):
                if name.startswith(f"{epoch}.partial"):
                    shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)
            self._building[epoch] = self._spawn(epoch, nice, lock)

    def _spawn(self, epoch: int, nice: int, lock: RangeLock) -> "subprocess.Popen[str]":
        folder = self._path(epoch)
        command = [sys.executable, "-m", "mosaic_dataloader.storage.stored_order_files"]
        command += [self._key_path, str(epoch), folder, f"{folder}.partial-{os.getpid()}"]
        if nice and (program := shutil.which("nice")):
            # From its first moment: its imports take longer than many a step.
            command = [program, "-n", str(nice), *command]
        # What can be imported here can be imported there.
        path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
        # Workers of another loader may be forked at this moment.
        with starting:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=[lock.fileno()],
            )
            # The lock is the child's from here on, for as long as it lives.
            lock.hand_over_to_child()
        return process

    def _check(self, epoch: int) -> None:
        """Raise what this process's own builder of an epoch ended with, if it failed."""
        process = self._building.get(epoch)
        if process is None or process.poll() is None:
            return
        del self._building[epoch]
        if process.returncode == 0:
            return
        output, errors = process.communicate()
        if process.returncode == REFUSED:
            raise MosaicDataError(output.strip())
        if process.returncode == UNWRITABLE:
            raise OSError(errno.EIO, output.strip())
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise MosaicDataError(
            f"computing the order of epoch {epoch} ended with status {process.returncode} "
            f'({last}); if memory ran out, choose shuffle_algo = "feistel", which needs none'
        )

    def _use(self, epoch: int) -> None:
        """Keep others from removing the order, and let go what lies two epochs back."""
        if epoch not in self._used:
            self._uses.shared(_use_byte(epoch))
            self._used.add(epoch)
        for old in [e for e in self._used if e < epoch - 1]:
            self._uses.unlock(_use_byte(old))
            self._used.remove(old)

    def _forget_later(self, epoch: int) -> None:
        """Remove old orders in a thread, once the batches around the epoch's end are through.

        Files of hundreds of megabytes take a while to remove.
        """
        threads.sleep(QUIET_SECONDS)
        try:
            self._prune_epochs(epoch)
        except OSError as error:
            # What is left lies there until the next epoch, or until nobody has used it for long.
            logger.debug("orders before epoch %d were not removed: %s", epoch, error)

    def _prune_epochs(self, epoch: int) -> None:
        """Remove orders that neither this run needs again soon nor anybody else uses."""
        with closing(RangeLock(self._lock_path)) as lock:
            for name in os.listdir(self._folder):
                if _GONE in name:  # the process that began to remove it was killed, or still does
                    shutil.rmtree(os.path.join(self._folder, name), ignore_errors=True)
                if not re.fullmatch(r"\d+", name) or abs(int(name) - epoch) <= 1:
                    continue
                if lock.try_exclusive(_use_byte(int(name))):
                    gone = f"{self._path(int(name))}{_GONE}{os.getpid()}"
                    os.rename(self._path(int(name)), gone)
                    lock.unlock(_use_byte(int(name)))
                    shutil.rmtree(gone, ignore_errors=True)

    def _prune_orders(self) -> None:
        for name in os.listdir(self._root):
            path = os.path.join(self._root, name, "lock")
            try:
                if time.time() - os.stat(path).st_mtime < _FORGOTTEN_SECONDS:
                    continue
                lock = RangeLock(path, create=False)
            except OSError:
                continue
            with closing(lock):
                if lock.try_exclusive(_KEY_BYTE):
                    shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)

    def _path(self, epoch: int) -> str:
        return os.path.join(self._folder, str(epoch))


def _build_byte(epoch: int) -> int:
    return 2 * epoch + 1


def _use_byte(epoch: int) -> int:
    return 2 * epoch + 2
