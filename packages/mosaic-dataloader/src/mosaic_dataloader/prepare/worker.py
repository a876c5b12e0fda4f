"""A process that encodes blocks: `python -m mosaic_dataloader.prepare.worker FD`.

It talks to its parent over one socket. When the parent dies, however it dies, the socket closes and
the worker ends; there is nothing to clean up.
"""

import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.encode import BlockEncoder


def main(descriptor: int) -> None:
    """Answer each (block, splits) with a `Result`, a `MosaicDataError` or a traceback as text."""
    # Ctrl-C reaches every process of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection: Connection = Connection(descriptor)
    try:
        encoder = BlockEncoder(connection.recv())
        while True:
            block, splits = connection.recv()
            try:
                answer: object = encoder.encode(block, splits)
            except MosaicDataError as error:
                answer = error
            except Exception:
                # A fault of this program; the parent shows where it is.
                answer = traceback.format_exc()
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The parent has no more work, or is gone. Skip what Python does at its end: libraries'
        # threads may be slow to stop.
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
