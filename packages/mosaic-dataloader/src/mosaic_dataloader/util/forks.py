"""What a process forked from this one must neither keep nor wait for."""

import os
import threading
import weakref
from typing import Protocol


class Inherited(Protocol):
    """Something that a forked process holds a copy of and must not use as its parent does."""

    def after_fork(self) -> None:
        """Called in the child, right after the fork."""
        ...


# Held around what a child must not inherit half done: a program that is being started (the child
# would keep the pipe by which `subprocess` learns that it runs), or a file that is open but not yet
# known to be closed in children. A signal handler may fork while its own thread holds it.
starting = threading.RLock()

_inherited: "weakref.WeakSet[Inherited]" = weakref.WeakSet()


def reset_in_child(inherited: Inherited) -> None:
    """Have ``inherited.after_fork()`` called in every process that is forked from this one."""
    _inherited.add(inherited)


def _reset() -> None:
    starting.release()
    for inherited in list(_inherited):
        inherited.after_fork()


os.register_at_fork(
    before=starting.acquire, after_in_parent=starting.release, after_in_child=_reset
)
