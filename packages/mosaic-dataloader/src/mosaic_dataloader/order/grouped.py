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


def build_grouped(
    mixture: Mixture, options: ResolvedOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Build an epoch for ``stratified``, ``per_stream`` or ``device_per_stream`` batching.

    Returns:
        ``ids`` and ``nodes``, both int64[batches * B]: sample ids and their canonical nodes.

    Raises:
        MosaicDataError: A stream is too small for its part of a single batch.
    """
    build = {
        "stratified": _stratified,
        "per_stream": _per_stream,
        "device_per_stream": _device_per_stream,
    }[options.batching_method]
    return build(mixture, options, epoch)


def _stratified(
    mixture: Mixture, options: ResolvedOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Every batch holds the same number of samples of each stream."""
    portions = stream_portions(mixture, options.order_batch)
    parts = [
        _interleaved_stream(mixture, options, epoch, number)
        for number in range(len(mixture.streams))
    ]
    batches = min(len(ids) // portion for (ids, _), portion in zip(parts, portions, strict=True))
    if not batches:
        raise MosaicDataError(
            f"no stream mixture fills one stratified batch of {options.order_batch} rows; lower "
            f"the batch size or raise epoch_size"
        )
    cut = [
        [values[: batches * portion].reshape(batches, portion) for values in part]
        for part, portion in zip(parts, portions, strict=True)
    ]
    ids = np.concatenate([c[0] for c in cut], axis=1)
    nodes = np.concatenate([c[1] for c in cut], axis=1)
    return ids.ravel(), nodes.ravel()


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


def _per_stream(
    mixture: Mixture, options: ResolvedOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Every batch holds samples of one stream only."""
    batch = options.order_batch
    parts: list[tuple[Int64Array, Int64Array]] = []
    counts = []
    for number, stream in enumerate(mixture.streams):
        ids, nodes = _interleaved_stream(mixture, options, epoch, number)
        count = len(ids) // batch
        _require_batches(count, stream.name, "batch", batch)
        counts.append(count)
        parts.append((ids[: count * batch], nodes[: count * batch]))
    mixed = _shuffled_batches(counts, np.random.default_rng(_batch_seed(options, epoch)))
    ids = np.concatenate([p[0] for p in parts]).reshape(-1, batch)[mixed]
    nodes = np.concatenate([p[1] for p in parts]).reshape(-1, batch)[mixed]
    return ids.ravel(), nodes.ravel()


def _device_per_stream(
    mixture: Mixture, options: ResolvedOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Every device's part of a batch holds samples of one stream only."""
    device, machines = options.device_batch, options.nodes
    _check_machines(options)
    per_machine = options.num_canonical_nodes // machines
    streams = [
        _shuffled_stream(mixture, options, epoch, number) for number in range(len(mixture.streams))
    ]
    rng = np.random.default_rng(_batch_seed(options, epoch))
    machine_ids: list[Int64Array] = []
    machine_nodes: list[Int64Array] = []
    for machine in range(machines):
        first = machine * per_machine
        counts, ids, nodes = [], [], []
        for number, order in enumerate(streams):
            starts = node_starts(len(order), options.num_canonical_nodes)
            own = order[starts[first] : starts[first + per_machine]]
            count = len(own) // device
            _require_batches(count, mixture.streams[number].name, "device batch", device)
            counts.append(count)
            own_ids = interleave(own, per_machine)[: count * device]
            ids.append(own_ids)
            places = np.arange(count * device, dtype=np.int64)
            nodes.append(first + node_of(places, len(own), per_machine))
        mixed = _shuffled_batches(counts, rng)
        machine_ids.append(np.concatenate(ids).reshape(-1, device)[mixed])
        machine_nodes.append(np.concatenate(nodes).reshape(-1, device)[mixed])
    # A batch takes the same number of device batches from every machine, one after another.
    per_batch = options.order_batch // device // machines
    batches = min(len(ids) for ids in machine_ids) // per_batch
    if not batches:
        raise MosaicDataError(
            f"the streams do not fill one device_per_stream batch of {options.order_batch} rows; "
            f"lower the batch size"
        )
    shape = (batches, per_batch, device)
    ids = np.stack([i[: batches * per_batch].reshape(shape) for i in machine_ids], axis=1)
    nodes = np.stack([n[: batches * per_batch].reshape(shape) for n in machine_nodes], axis=1)
    return ids.ravel(), nodes.ravel()


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


def _interleaved_stream(
    mixture: Mixture, options: ResolvedOrder, epoch: int, number: int
) -> tuple[Int64Array, Int64Array]:
    order = _shuffled_stream(mixture, options, epoch, number)
    canonical = options.num_canonical_nodes
    places = np.arange(len(order), dtype=np.int64)
    return interleave(order, canonical), node_of(places, len(order), canonical)


def _batch_seed(options: ResolvedOrder, epoch: int) -> int:
    return options.shuffle_seed + (epoch if options.seed_changes_with_epoch else 0)


def _shuffled_batches(counts: list[int], rng: np.random.Generator) -> Int64Array:
    """Batch numbers in an order that mixes the streams at random and keeps each stream's own."""
    origins = np.repeat(np.arange(len(counts)), counts)
    rng.shuffle(origins)
    mixed = np.empty(len(origins), np.int64)
    first = 0
    for stream, count in enumerate(counts):
        mixed[origins == stream] = first + np.arange(count)
        first += count
    return mixed


def _require_batches(count: int, stream: str, what: str, rows: int) -> None:
    if not count:
        raise MosaicDataError(
            f'stream "{stream}" does not fill one {what} of {rows} rows; lower the batch size or '
            f"raise the stream's weight"
        )
