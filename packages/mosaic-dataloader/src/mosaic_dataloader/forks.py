"""Starting a program in one thread while another thread may fork this process."""

import os
import threading

# A process forked meanwhile would inherit what is meant for the program alone: the pipe by which
# `subprocess` learns that it runs, its output, its locks. It would keep them for as long as it
# lives, and this process would wait for their ends. Taken around every such start.
starting = threading.Lock()

os.register_at_fork(
    before=starting.acquire, after_in_parent=starting.release, after_in_child=starting.release
)
