"""Batches that a caller was handed and has not yet trained on."""

from collections import deque
from collections.abc import Callable

from mosaic_dataloader.errors import MosaicDataError

# More than any trainer fetches ahead or collects for one step: confirming was forgotten.
_MOST = 1024

Count = Callable[[], None]


class Unconfirmed:
    """What is to be counted when the caller says that it has trained on a batch.

    Batches are confirmed in the order in which they were handed out, however far ahead the caller
    fetches them.
    """

    def __init__(self) -> None:
        # One entry per batch; what follows it without being a batch waits in the same entry.
        self._waiting: deque[list[Count]] = deque()

    def batch(self, count: Count) -> None:
        """Remember a batch that is being handed out.

        Raises:
            MosaicDataError: Too many batches wait.
        """
        if len(self._waiting) >= _MOST:
            raise MosaicDataError(
                f"{_MOST} batches were handed out and none of them confirmed; call "
                f"loader.confirm() after each batch that was trained on, or leave out "
                f"confirm_batches"
            )
        self._waiting.append([count])

    def then(self, count: Count) -> None:
        """Do something after all batches so far have been counted: at once if they have."""
        if self._waiting:
            self._waiting[-1].append(count)
        else:
            count()

    def confirm(self, batches: int) -> None:
        """Count the oldest batches.

        Raises:
            MosaicDataError: Fewer wait; none is counted.
        """
        if not 0 <= batches <= len(self._waiting):
            raise MosaicDataError(
                f"confirm({batches}) with {len(self._waiting)} unconfirmed batches; confirm each "
                f"batch once, after it was trained on"
            )
        for _ in range(batches):
            for count in self._waiting.popleft():
                count()

    def forget(self) -> None:
        """Drop what waits: it will be handed out again."""
        self._waiting.clear()
