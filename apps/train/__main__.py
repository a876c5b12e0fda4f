"""Entry point: `uv run apps/train …`, or one rank of `torchrun … apps/train/__main__.py …`."""

import sys

from mosaic_train.cli import main

# Worker processes of a data loader import this file again where they are spawned.
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
