"""Batches that a caller was handed and has not yet trained on."""

from collections import deque
from collections.abc import Callable
from functools import partial

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.state.progress import Progress

# More than any trainer fetches ahead or collects for one step: confirming was forgotten.
_MOST_PENDING = 1024


class PendingBatches:
    """Batches that were handed out and wait for the caller to confirm that it trained on them.

    They are confirmed in the order in which they were handed out, however far ahead the caller
    fetches them.
    """

    def __init__(self) -> None:
        # One entry per batch; what follows it without being a batch waits in the same entry.
        self._waiting: deque[list[Callable[[], object]]] = deque()

    def add(self, count: Callable[[Progress], object], progress: Progress) -> None:
        """Keep a batch that is being handed out, to be counted with its progress.

        Raises:
            MosaicDataError: Too many batches are pending.
        """
        if len(self._waiting) >= _MOST_PENDING:
            raise MosaicDataError(
                f"{_MOST_PENDING} batches were handed out and none of them confirmed; call "
                f"loader.confirm() after each batch that was trained on, or leave out "
                f"confirm_batches"
            )
        self._waiting.append([partial(count, progress)])

    def on_complete(self, action: Callable[[], object]) -> None:
        """Do something after all batches so far have been counted: at once if they have."""
        if self._waiting:
            self._waiting[-1].append(action)
        else:
            action()

    def confirm(self, batches: int) -> None:
        """Count the oldest batches.

        Raises:
            MosaicDataError: Fewer are pending; none is counted.
        """
        if not 0 <= batches <= len(self._waiting):
            raise MosaicDataError(
                f"confirm({batches}) with {len(self._waiting)} unconfirmed batches; confirm each "
                f"batch once, after it was trained on"
            )
        for _ in range(batches):
            for action in self._waiting.popleft():
                action()

    def reset(self) -> None:
        """Drop what is pending: it will be handed out again."""
        self._waiting.clear()
