"""Whether the weights of a mixture's streams fit together (mosaicml-streaming's rules)."""

from collections.abc import Iterator

from mosaic_config.schema import dotted
from mosaic_config.sections import MosaicDataset, MosaicStream


def weight_problems(place: str, dataset: MosaicDataset) -> Iterator[str]:
    """Yield a sentence for each weight that contradicts another.

    Args:
        place: The dataset's TOML path, for the sentences.
        dataset: The dataset with the streams.
    """
    kinds = {name: _weights(stream) for name, stream in dataset.streams.items()}
    for name, weights in kinds.items():
        if len(weights) > 1:
            yield (
                f"[{place}.streams.{dotted((name,))}] has {' and '.join(weights)}; "
                "a stream takes only one of proportion, repeat and choose"
            )
    relative = [name for name, weights in kinds.items() if "proportion" in weights]
    absolute = [name for name, weights in kinds.items() if "proportion" not in weights]
    if relative and absolute:
        other = absolute[0]
        has = " and ".join(kinds[other]) or "no proportion"
        yield (
            f"[{place}.streams.{dotted((other,))}] has {has} but "
            f"[{place}.streams.{dotted((relative[0],))}] has proportion; "
            "give every stream a proportion, or none"
        )
    if relative and not absolute and not any(s.proportion for s in dataset.streams.values()):
        yield f"[{place}.streams] proportions are all 0; give at least one stream more than 0"
    counted = [name for name in absolute if kinds[name]]
    if counted and not relative and dataset.epoch_size is not None:
        yield (
            f"[{place}] epoch_size cannot be kept: [{place}.streams.{dotted((counted[0],))}] has "
            f"{kinds[counted[0]][0]}, which fixes a number of samples; remove one of them"
        )


def _weights(stream: MosaicStream) -> list[str]:
    return [key for key in ("proportion", "repeat", "choose") if getattr(stream, key) is not None]
