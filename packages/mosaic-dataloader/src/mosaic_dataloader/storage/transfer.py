"""Downloads one file of a stream from its store: retried where that may help, but not forever."""

import contextlib
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.storage.contents import refuse_link_outside
from mosaic_dataloader.storage.versions import Version
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child
from mosaic_dataloader.util.secrets import hide_secrets_of, printable, redacted
from mosaic_dataloader.util.store_errors import (
    CorruptShardError,
    DownloadTimeoutError,
    hint,
    is_not_found,
    is_permanent,
    one_line,
)

if TYPE_CHECKING:
    from streaming import Stream
    from streaming.base.storage import CloudDownloader

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds before the second try, at the most; each further pause is twice as long.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
# How often the size of what has arrived is looked at.
_WATCH_SECONDS = 0.05

# Not the trainer's random numbers: drawing from those would change its run.
_chance = random.Random()
_numbers = itertools.count()


class NotFoundError(MosaicDataError):
    """The store has no such file, or none that may be seen."""


class Transfers:
    """Downloads of one stream into its cache directory, by any number of threads."""

    def __init__(self, name: str, stream: "Stream", directory: str):
        self.name = name
        self.stream = stream
        self.directory = directory
        self._threads = threading.local()
        hide_secrets_of(str(stream.remote))
        reset_in_child(self)

    def after_fork(self) -> None:
        """In a child, neither use nor close the connections of the parent."""
        self._parents, self._threads = self._threads, threading.local()

    @property
    def longest(self) -> float:
        """Seconds that ``download`` takes at most."""
        attempts = self.stream.download_retry
        # All after the first few pauses are equally long.
        pauses = sum(map(_longest_pause, range(1, min(attempts, 6))))
        pauses += _LONGEST_PAUSE * max(0, attempts - 6)
        return float(attempts * self.stream.download_timeout + pauses)

    def download(
        self,
        file: str,
        folder: str,
        what: str,
        check: Callable[[str], None],
        attempts: int | None = None,
        size: int | None = None,
        ask: bool = False,
        on_attempt: Callable[[int, int], None] = lambda attempt, attempts: None,
    ) -> tuple[str, Version | None]:
        """Download a file.

        Transient errors are retried after a pause that grows and varies: damage in transit, a
        broken connection, a busy store. Permanent ones fail at once: a missing file, a denied one.

        Args:
            file: Its name at the remote.
            folder: Where it is put, under a name that no other attempt has.
            what: What messages call it.
            check: Called with its path; raises ``CorruptShardError`` if the file is not valid.
            attempts: How often to try at most; by default as the stream says.
            size: Bytes that it has; a download that brings more is ended early.
            ask: Whether the version is wanted, which costs a request at some stores.
            on_attempt: Called before each attempt with its number, from 1, and with how many there
                are at the most.

        Returns:
            Its path, and the version that arrived; None where nobody asks, or the store does not
            say.

        Raises:
            NotFoundError: The store does not have it.
            MosaicDataError: It cannot be downloaded; one line says why and what to do.
        """
        attempts = attempts or self.stream.download_retry
        for attempt in itertools.count(1):
            on_attempt(attempt, attempts)
            # An attempt that was abandoned may still write to its own file.
            path = os.path.join(folder, f"{os.getpid()}-{next(_numbers)}-{os.path.basename(file)}")
            try:
                version = self._try(file, path, size, ask=ask)
                check(path)
                return path, version if ask else None
            except MosaicDataError as error:
                about = self.subject(what)
                raise MosaicDataError(f"{about}: {error}") from None
            except Exception as error:
                # Object stores raise errors of their own of every kind.
                with contextlib.suppress(OSError):
                    os.remove(path)
                if attempt >= attempts or is_permanent(error):
                    raise self._error(what, error, attempt) from printable(error)
                pause = _longest_pause(attempt) * _chance.uniform(0.5, 1.0)
                logger.warning(
                    "%s: %s; trying again in %.1f s (%d of %d)",
                    self.subject(what),
                    one_line(error),
                    pause,
                    attempt + 1,
                    attempts,
                )
            threads.sleep(pause)
        raise AssertionError("unreachable")

    def version(self, file: str) -> Version | None:
        """What the store says about the present version of a file; None where it cannot.

        Raises:
            NotFoundError: The store does not have it.
            MosaicDataError: The store does not answer; it is asked once.
        """
        from mosaic_dataloader.storage.mosaicml import client_timeout, version_of

        timeout = client_timeout(self.stream)
        try:
            return self._with_downloader(lambda d: version_of(d, self._address(file), timeout))
        except Exception as error:
            raise self._error(file, error, 1) from printable(error)

    def _try(self, file: str, path: str, size: int | None, *, ask: bool) -> Version | None:
        from mosaic_dataloader.storage.mosaicml import client_timeout, download

        def watch() -> None:
            # Some downloaders write to a name of their own first.
            for staged in (path, f"{path}.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if size is not None and (arrived := os.stat(staged).st_size) > size:
                        os.remove(staged)
                        raise CorruptShardError(
                            f"at least {arrived} bytes arrived where the index says {size} bytes"
                        )

        remote, timeout = self._address(file), client_timeout(self.stream)
        return self._with_downloader(lambda d: download(d, remote, path, timeout, ask=ask), watch)

    def _address(self, file: str) -> str:
        root = os.path.join(str(self.stream.remote), self.stream.split)
        if not urlsplit(root).scheme:
            # A directory of this machine's, which a file name of its index must not lead out of.
            refuse_link_outside(os.path.realpath(root), file)
        return os.path.join(root, file)

    def _with_downloader(
        self, job: Callable[["CloudDownloader"], T], watch: Callable[[], None] = lambda: None
    ) -> T:
        """Do what needs the store, within the time that one attempt may take."""
        downloader = self._downloader()
        try:
            return _within(self.stream.download_timeout, lambda: job(downloader), watch)
        except BaseException:
            # Its connection may be what is broken; where it is given up, this ends it.
            self._threads.downloader = None
            downloader.clean_up()
            raise

    def _downloader(self) -> "CloudDownloader":
        """A downloader that this thread may use: most stores' clients are not to be shared."""
        from mosaic_dataloader.storage.mosaicml import new_downloader

        if self._threads.__dict__.get("downloader") is None:
            self._threads.downloader = new_downloader(self.stream)
        own: CloudDownloader = self._threads.downloader
        return own

    def subject(self, what: str) -> str:
        """What a message is about: stream, file and address."""
        where = redacted(os.path.join(str(self.stream.remote), self.stream.split).rstrip("/"))
        return f'stream "{self.name}", {what} from {where}'

    def _error(self, what: str, error: Exception, attempt: int) -> MosaicDataError:
        tried = f" (tried {attempt} times)" if attempt > 1 else ""
        todo = hint(error, self.directory)
        kind = NotFoundError if is_not_found(error) else MosaicDataError
        return kind(f"{self.subject(what)}: {one_line(error)}{tried}; {todo}")


def _longest_pause(attempt: int) -> float:
    """Seconds to wait at most after so many tries."""
    # Bounded before it is a power: a thousand attempts are more than a float can hold.
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt - 1, 10))


def _within(seconds: float, job: Callable[[], T], watch: Callable[[], None]) -> T:
    """Run a job, but wait for it no longer than so many seconds; its result.

    Most stores' libraries limit the wait for the next byte at best, some nothing at all. The job
    runs in a thread of its own, which is left behind where it hangs. ``watch`` is called now and
    then while the job runs; what it raises ends the wait.
    """
    outcome = threads.Outcome(job)
    threading.Thread(target=outcome.run, name="mosaic-download", daemon=True).start()
    deadline = time.monotonic() + seconds
    while not threads.wait(
        outcome.ended, min(_WATCH_SECONDS, max(0.0, deadline - time.monotonic()))
    ):
        watch()
        if time.monotonic() >= deadline:
            raise DownloadTimeoutError(f"it did not arrive within download_timeout = {seconds:g} s")
    return outcome.result()
