"""The process that computes one epoch's order (run with ``python -m``).

It imports numpy and the shuffle algorithms, but neither torch nor the rest of mosaicml-streaming,
which takes seconds: the training process waits for the first order.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import types

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.epoch import ListedEpoch, build_epoch
from mosaic_dataloader.storage.stored_order_files import OrderKey, write_order

# Exit statuses with which a message is on standard output: the data or options do not allow the
# order; it cannot be written.
REFUSED, UNWRITABLE = 3, 4


def main() -> None:
    """Build and write the order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--order-key", required=True, help="file that holds it")
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--partial", required=True)
    given = parser.parse_args()
    try:
        with open(given.order_key, encoding="utf-8") as file:
            key = OrderKey.from_json(file.read())
        if key.options.shuffle:
            _without_its_parents("streaming", "base")
        order = build_epoch(key.mixture, key.options, given.epoch)
        assert isinstance(order, ListedEpoch)  # the one order that is not a list is never stored
        write_order(order, given.folder, given.partial)
    except (MosaicDataError, OSError) as error:
        # What was written of it takes the space that may be what is missing.
        shutil.rmtree(given.partial, ignore_errors=True)
        print(str(error).replace("\n", " "))
        raise SystemExit(REFUSED if isinstance(error, MosaicDataError) else UNWRITABLE) from None


def _without_its_parents(package: str, child: str) -> None:
    """Let modules below ``package.child`` be imported without running either's ``__init__``."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return
    folders = list(spec.submodule_search_locations)
    for name in (package, f"{package}.{child}"):
        empty = types.ModuleType(name)
        empty.__path__ = folders
        sys.modules[name] = empty
        folders = [os.path.join(folder, child) for folder in folders]


if __name__ == "__main__":
    main()
