"""Everything that an epoch order is made from, in a form that names it and travels."""

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.options import SettledOrder

# Raised when the same recipe gives another order than before.
_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Data sizes and options of an order.

    Args:
        mixture: The data.
        options: The settled order.
    """

    mixture: Mixture
    options: SettledOrder

    def to_json(self) -> str:
        """As one line; the same for the same order."""
        streams = [[s.samples_per_shard.tolist(), s.choose] for s in self.mixture.streams]
        return json.dumps({"streams": streams, "options": self.options.to_dict()}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "Recipe":
        """The recipe that ``to_json`` wrote, its streams without their names."""
        told = json.loads(text)
        streams = [
            StreamSize(f"number {number}", np.array(sizes, np.int64), choose)
            for number, (sizes, choose) in enumerate(told["streams"])
        ]
        return Recipe(Mixture(streams), SettledOrder(**told["options"]))


def name_of(recipe: str) -> str:
    """What the orders of a recipe, in its JSON form, go by on disk.

    The libraries' versions are part of it: numpy promises the same random numbers only within a
    version, and the shuffle algorithms are mosaicml-streaming's.
    """
    made_with = [_VERSION, version("numpy"), version("mosaicml-streaming")]
    digest = hashlib.sha256(json.dumps(made_with).encode())
    digest.update(recipe.encode())
    return digest.hexdigest()[:24]
