"""The process that computes one epoch's order: ``python -m mosaic_dataloader.order.stored.build``.

It imports numpy and the shuffle algorithms, but neither torch nor the rest of mosaicml-streaming,
which takes seconds: the training process waits for the first order.
"""

import argparse
import importlib.util
import os
import sys
import types

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.epoch import EpochOrder, build_epoch
from mosaic_dataloader.order.stored.files import write_order
from mosaic_dataloader.order.stored.recipe import Recipe

# The exit status with which the message for the user is on standard output.
REFUSED = 3


def main() -> None:
    """Build and write the order."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipe", required=True, help="file that holds it")
    parser.add_argument("--epoch", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--partial", required=True)
    given = parser.parse_args()
    with open(given.recipe, encoding="utf-8") as file:
        recipe = Recipe.from_json(file.read())
    if recipe.options.shuffle:
        _without_its_parents("streaming", "base")
    try:
        order = build_epoch(recipe.mixture, recipe.options, given.epoch)
        assert isinstance(order, EpochOrder)  # the one order that is not a list is never stored
        write_order(order, given.folder, given.partial)
    except (MosaicDataError, OSError) as error:
        print(str(error).replace("\n", " "))
        raise SystemExit(REFUSED) from None


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
