"""Batching methods whose order is built in units of a batch.

What a unit holds follows mosaicml-streaming's ``batching`` modules; here only whole units form the
epoch list, nothing is padded, and the rows of a unit lie node after node so that each machine keeps
to its own shards.
"""

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.assign import deal, node_of, node_starts
from mosaic_dataloader.order.feistel import FeistelOrder
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.order.resample import resample, shuffled


def build_units(
    mixture: Mixture, options: SettledOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Build an epoch for ``stratified``, ``per_stream`` or ``device_per_stream`` batching.

    Returns:
        ``ids`` and ``nodes``, both int64[units * unit]: sample ids and their canonical nodes.

    Raises:
        MosaicDataError: A stream is too small for its part of a single unit.
    """
    build = {
        "stratified": _stratified,
        "per_stream": _per_stream,
        "device_per_stream": _device_per_stream,
    }[options.batching_method]
    return build(mixture, options, epoch)


def _stratified(
    mixture: Mixture, options: SettledOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Every unit holds the same number of samples of each stream."""
    portions = stream_portions(mixture, options.unit)
    parts = [
        _dealt_stream(mixture, options, epoch, number) for number in range(len(mixture.streams))
    ]
    units = min(len(ids) // portion for (ids, _), portion in zip(parts, portions, strict=True))
    if not units:
        raise MosaicDataError(
            f"no stream mixture fills one stratified batch of {options.unit} rows; lower the batch "
            f"size or raise epoch_size"
        )
    cut = [
        [values[: units * portion].reshape(units, portion) for values in part]
        for part, portion in zip(parts, portions, strict=True)
    ]
    ids = np.concatenate([c[0] for c in cut], axis=1)
    nodes = np.concatenate([c[1] for c in cut], axis=1)
    return ids.ravel(), nodes.ravel()


def stream_portions(mixture: Mixture, unit: int) -> list[int]:
    """Rows of each stream in a stratified unit: shares rounded down, largest remainders first.

    Raises:
        MosaicDataError: A stream's share of the unit is less than one row.
    """
    weights = np.array([s.choose for s in mixture.streams], np.float64)
    shares = unit * (weights / weights.sum())
    portions = shares.astype(np.int64)
    missing = unit - int(portions.sum())
    portions[np.flip(np.argsort(shares - portions))[:missing]] += 1
    for stream, portion in zip(mixture.streams, portions.tolist(), strict=True):
        if portion < 1:
            raise MosaicDataError(
                f'stream "{stream.name}" has no row in a stratified batch of {unit}; raise its '
                f"proportion or the global batch size"
            )
    return [int(p) for p in portions]


def _per_stream(
    mixture: Mixture, options: SettledOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Every unit holds samples of one stream only."""
    unit = options.unit
    pieces: list[tuple[Int64Array, Int64Array]] = []
    counts = []
    for number, stream in enumerate(mixture.streams):
        ids, nodes = _dealt_stream(mixture, options, epoch, number)
        count = len(ids) // unit
        _require_units(count, stream.name, "batch", unit)
        counts.append(count)
        pieces.append((ids[: count * unit], nodes[: count * unit]))
    turns = _shuffled_turns(counts, np.random.default_rng(_turn_seed(options, epoch)))
    ids = np.concatenate([p[0] for p in pieces]).reshape(-1, unit)[turns]
    nodes = np.concatenate([p[1] for p in pieces]).reshape(-1, unit)[turns]
    return ids.ravel(), nodes.ravel()


def _device_per_stream(
    mixture: Mixture, options: SettledOrder, epoch: int
) -> tuple[Int64Array, Int64Array]:
    """Every device's part of a unit holds samples of one stream only."""
    device, machines = options.device_unit, options.unit_nodes
    _check_machines(options)
    per_machine = options.num_canonical_nodes // machines
    streams = [
        _shuffled_stream(mixture, options, epoch, number) for number in range(len(mixture.streams))
    ]
    rng = np.random.default_rng(_turn_seed(options, epoch))
    machine_ids: list[Int64Array] = []
    machine_nodes: list[Int64Array] = []
    for machine in range(machines):
        first = machine * per_machine
        counts, ids, nodes = [], [], []
        for number, order in enumerate(streams):
            starts = node_starts(len(order), options.num_canonical_nodes)
            own = order[starts[first] : starts[first + per_machine]]
            count = len(own) // device
            _require_units(count, mixture.streams[number].name, "device batch", device)
            counts.append(count)
            dealt = deal(own, per_machine)[: count * device]
            ids.append(dealt)
            places = np.arange(count * device, dtype=np.int64)
            nodes.append(first + node_of(places, len(own), per_machine))
        turns = _shuffled_turns(counts, rng)
        machine_ids.append(np.concatenate(ids).reshape(-1, device)[turns])
        machine_nodes.append(np.concatenate(nodes).reshape(-1, device)[turns])
    # A unit takes the same number of device batches from every machine, one machine after another.
    per_unit = options.unit // device // machines
    units = min(len(ids) for ids in machine_ids) // per_unit
    if not units:
        raise MosaicDataError(
            f"the streams do not fill one device_per_stream batch of {options.unit} rows; lower "
            f"the batch size"
        )
    shape = (units, per_unit, device)
    ids = np.stack([i[: units * per_unit].reshape(shape) for i in machine_ids], axis=1)
    nodes = np.stack([n[: units * per_unit].reshape(shape) for n in machine_nodes], axis=1)
    return ids.ravel(), nodes.ravel()


def _check_machines(options: SettledOrder) -> None:
    canonical, machines = options.num_canonical_nodes, options.unit_nodes
    if canonical % machines:
        raise MosaicDataError(
            f'batching_method = "device_per_stream" needs num_canonical_nodes ({canonical}) '
            f"divisible by the number of nodes ({machines}); change num_canonical_nodes"
        )
    ranks = options.unit // options.device_unit
    if ranks % machines:
        raise MosaicDataError(
            f'batching_method = "device_per_stream" needs equally many data-parallel ranks on '
            f"each node, and {ranks} rank(s) do not divide by {machines} nodes; change the "
            f"parallel degrees or choose another batching_method"
        )


def _shuffled_stream(
    mixture: Mixture, options: SettledOrder, epoch: int, number: int
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
    if options.feistel:
        places = np.arange(total, dtype=np.int64)
        return FeistelOrder(mixture, options, epoch, range(number, number + 1), block).listed(
            places
        )
    sizes, small = resample(mixture, options, epoch, [number])
    return small[shuffled(sizes, total, options, epoch, block)]


def _dealt_stream(
    mixture: Mixture, options: SettledOrder, epoch: int, number: int
) -> tuple[Int64Array, Int64Array]:
    order = _shuffled_stream(mixture, options, epoch, number)
    canonical = options.num_canonical_nodes
    places = np.arange(len(order), dtype=np.int64)
    return deal(order, canonical), node_of(places, len(order), canonical)


def _turn_seed(options: SettledOrder, epoch: int) -> int:
    return options.shuffle_seed + (epoch if options.seed_changes_with_epoch else 0)


def _shuffled_turns(counts: list[int], rng: np.random.Generator) -> Int64Array:
    """Row numbers that visit the streams in random turns and each stream in its own order."""
    origins = np.repeat(np.arange(len(counts)), counts)
    rng.shuffle(origins)
    turns = np.empty(len(origins), np.int64)
    first = 0
    for stream, count in enumerate(counts):
        turns[origins == stream] = first + np.arange(count)
        first += count
    return turns


def _require_units(count: int, stream: str, what: str, rows: int) -> None:
    if not count:
        raise MosaicDataError(
            f'stream "{stream}" does not fill one {what} of {rows} rows; lower the batch size or '
            f"raise the stream's weight"
        )
