"""Grouped batching: methods that build the order global batch by global batch.

What a batch holds follows mosaicml-streaming's ``batching`` modules; here only full batches form
the epoch list, nothing is padded, and the rows of a batch lie node after node so that each machine
keeps to its own shards.
"""

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.assign import interleave, node_of, node_starts
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.shuffles import shuffle_of

# int64[2, n]: sample ids, and their canonical nodes.
Rows = Int64Array


def build_grouped(mixture: Mixture, options: ResolvedOrder, epoch: int) -> Rows:
    """Build an epoch for ``stratified``, ``per_stream`` or ``device_per_stream`` batching.

    Returns:
        int64[2, batches * B]: sample ids, and their canonical nodes.

    Raises:
        MosaicDataError: A stream is too small for its part of a single batch.
    """
    build = {
        "stratified": _stratified,
        "per_stream": _per_stream,
        "device_per_stream": _device_per_stream,
    }[options.batching_method]
    return build(mixture, options, epoch).reshape(2, -1)


def _stratified(mixture: Mixture, options: ResolvedOrder, epoch: int) -> Rows:
    """Every batch holds the same number of samples of each stream."""
    portions = stream_portions(mixture, options.order_batch)
    parts = [_interleaved_stream(mixture, options, epoch, n) for n in range(len(mixture.streams))]
    batches = min(p.shape[1] // portion for p, portion in zip(parts, portions, strict=True))
    if not batches:
        raise MosaicDataError(
            f"no stream mixture fills one stratified batch of {options.order_batch} rows; lower "
            f"the batch size or raise epoch_size"
        )
    cut = [
        part[:, : batches * portion].reshape(2, batches, portion)
        for part, portion in zip(parts, portions, strict=True)
    ]
    return np.concatenate(cut, axis=2)


def stream_portions(mixture: Mixture, batch: int) -> list[int]:
    """Rows of each stream in a stratified batch: shares rounded down, largest remainders first.

    Raises:
        MosaicDataError: A stream's share of the batch is less than one row.
    """
    weights = np.array([s.choose for s in mixture.streams], np.float64)
    shares = batch * (weights / weights.sum())
    portions = shares.astype(np.int64)
    missing = batch - int(portions.sum())
    portions[np.flip(np.argsort(shares - portions))[:missing]] += 1
    for stream, portion in zip(mixture.streams, portions.tolist(), strict=True):
        if portion < 1:
            raise MosaicDataError(
                f'stream "{stream.name}" has no row in a stratified batch of {batch}; raise its '
                f"proportion or the global batch size"
            )
    return [int(p) for p in portions]


def _per_stream(mixture: Mixture, options: ResolvedOrder, epoch: int) -> Rows:
    """Every batch holds samples of one stream only."""
    parts = [_interleaved_stream(mixture, options, epoch, n) for n in range(len(mixture.streams))]
    rng = np.random.default_rng(_batch_seed(options, epoch))
    return _mixed_batches(mixture, parts, "batch", options.order_batch, rng)


def _device_per_stream(mixture: Mixture, options: ResolvedOrder, epoch: int) -> Rows:
    """Every device's part of a batch holds samples of one stream only."""
    device, machines = options.device_batch, options.nodes
    _check_machines(options)
    per_machine = options.num_canonical_nodes // machines
    streams = [_shuffled_stream(mixture, options, epoch, n) for n in range(len(mixture.streams))]
    rng = np.random.default_rng(_batch_seed(options, epoch))
    batches_of: list[Rows] = []
    for machine in range(machines):
        first = machine * per_machine
        parts = []
        for order in streams:
            starts = node_starts(len(order), options.num_canonical_nodes)
            own = _interleaved(order[starts[first] : starts[first + per_machine]], per_machine)
            own[1] += first
            parts.append(own)
        batches_of.append(_mixed_batches(mixture, parts, "device batch", device, rng))
    # A batch takes the same number of device batches from every machine, one after another.
    per_batch = options.order_batch // device // machines
    batches = min(own.shape[1] for own in batches_of) // per_batch
    if not batches:
        raise MosaicDataError(
            f"the streams do not fill one device_per_stream batch of {options.order_batch} rows; "
            f"lower the batch size"
        )
    shape = (2, batches, per_batch, device)
    return np.stack([own[:, : batches * per_batch].reshape(shape) for own in batches_of], axis=2)


def _check_machines(options: ResolvedOrder) -> None:
    canonical, machines = options.num_canonical_nodes, options.nodes
    if canonical % machines:
        raise MosaicDataError(
            f'batching_method = "device_per_stream" needs num_canonical_nodes ({canonical}) '
            f"divisible by the number of nodes ({machines}); change num_canonical_nodes"
        )
    ranks = options.order_batch // options.device_batch
    if ranks % machines:
        raise MosaicDataError(
            f'batching_method = "device_per_stream" needs equally many data-parallel ranks on '
            f"each node, and {ranks} rank(s) do not divide by {machines} nodes; change the "
            f"parallel degrees or choose another batching_method"
        )


def _shuffled_stream(
    mixture: Mixture, options: ResolvedOrder, epoch: int, number: int
) -> Int64Array:
    """One stream's draws, int64[choose], node after node."""
    total = mixture.streams[number].choose
    if total < options.num_canonical_nodes:
        raise MosaicDataError(
            f'stream "{mixture.streams[number].name}" gives {total} samples an epoch, fewer than '
            f"num_canonical_nodes ({options.num_canonical_nodes}); lower num_canonical_nodes"
        )
    share = mixture.streams[number].choose / mixture.epoch_samples
    # As in mosaicml-streaming: the blocks of all streams together are one shuffle block.
    block = max(2, int(options.shuffle_block_size * share))
    streams = range(number, number + 1)
    return shuffle_of(options).list_ids(mixture, options, epoch, streams, block)


def _interleaved_stream(mixture: Mixture, options: ResolvedOrder, epoch: int, number: int) -> Rows:
    order = _shuffled_stream(mixture, options, epoch, number)
    return _interleaved(order, options.num_canonical_nodes)


def _interleaved(order: Int64Array, nodes: int) -> Rows:
    places = np.arange(len(order), dtype=np.int64)
    return np.stack([interleave(order, nodes), node_of(places, len(order), nodes)])


def _batch_seed(options: ResolvedOrder, epoch: int) -> int:
    return options.shuffle_seed + (epoch if options.seed_changes_with_epoch else 0)


def _mixed_batches(
    mixture: Mixture, parts: list[Rows], what: str, rows: int, rng: np.random.Generator
) -> Rows:
    """Full batches of single streams, int64[2, batches, rows].

    Their order mixes the streams at random and keeps each stream's own.
    """
    counts = [part.shape[1] // rows for part in parts]
    for stream, count in zip(mixture.streams, counts, strict=True):
        if not count:
            raise MosaicDataError(
                f'stream "{stream.name}" does not fill one {what} of {rows} rows; lower the batch '
                f"size or raise the stream's weight"
            )
    origins = np.repeat(np.arange(len(parts)), counts)
    rng.shuffle(origins)
    mixed = np.empty((2, len(origins), rows), np.int64)
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        mixed[:, origins == number] = part[:, : count * rows].reshape(2, count, rows)
    return mixed
