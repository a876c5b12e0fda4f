"""`[mosaic_dataloader.dataset.streams.<name>]`: one stream of a mixture."""

from dataclasses import dataclass


@dataclass
class MosaicStream:
    """One MDS directory of a mixture, and its weight in it.

    Give at most one of `proportion`, `repeat` and `choose`. If one stream has a `proportion`, all
    must. Options left out (None) take the value of `[mosaic_dataloader.dataset]`.
    """

    remote: str | None = None
    """
    Object-store URL or directory that holds the shards. None: the data is already complete in
    `local`. One of `remote` and `local` is needed.
    """

    local: str | None = None
    """
    Directory that shards are downloaded to, or read from when there is no `remote`. None:
    the loader chooses one.
    """

    split: str | None = None
    """Subdirectory of `remote` and `local` to read, such as "train". None: the dataset's."""

    proportion: float | None = None
    """
    Relative weight: this stream's share of the samples of an epoch, divided by the sum over all
    streams. Not negative. None: not weighted by proportion.
    """

    repeat: float | None = None
    """
    Absolute weight: how often this stream's samples appear in an epoch. 0.5 is half of them, 2.0
    each twice. Not negative. None: not weighted by repetition.
    """

    choose: int | None = None
    """
    Absolute weight: number of samples drawn from this stream in an epoch. Not negative. None: not
    weighted by a count.
    """

    download_retry: int | None = None
    """Further attempts after a failed download. None: the dataset's."""

    download_timeout: float | None = None
    """Seconds that one attempt to download a shard may take. None: the dataset's."""

    validate_hash: str | None = None
    """
    Hash algorithm that downloaded shards are checked with, one of those that they were written
    with. None: the dataset's.
    """

    keep_zip: bool | None = None
    """Whether compressed shards are kept after decompression. None: the dataset's."""
