"""Blocks that do to a worker process what a test is about. Workers import this; it is small."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Deadly:
    """Its number as a document; the third kills whoever reads it, or fails."""

    number: int
    kills: bool
    size: int = 1

    @property
    def position(self) -> tuple[int, ...]:
        return (self.number,)

    def documents(self) -> Iterator[str]:
        if self.number == 2:
            if self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ZeroDivisionError("a fault of the program")
        yield str(self.number)
