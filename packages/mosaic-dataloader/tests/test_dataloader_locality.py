"""Each machine reads the shards of its own canonical nodes, and no others."""

import math
from pathlib import Path

import numpy as np
import pytest
from dataloader_helpers import loader, numbers, write_rows
from hypothesis import assume, given
from hypothesis import strategies as st
from order_helpers import mixture, resolved

from mosaic_dataloader.order.batches import Layout, endless_batches
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.order.stage_sequence import StageSequence
from mosaic_dataloader.order.stages import Stage, draws_per_block
from mosaic_dataloader.state.identity import sampled

ALGOS = ["py1e", "py1s", "py2s", "py1br", "feistel"]


def own_shards(sequence: EpochSequence, epoch: int, node: int, nodes: int, batch: int) -> set[int]:
    """Shards that hold samples of a machine's canonical nodes in an epoch."""
    ids, owners = sequence.epoch(epoch).rows(0, sequence.epoch_length)
    common = math.gcd(sequence.options.num_canonical_nodes, batch)
    own = owners % common * nodes // common == node
    return set(sequence.mixture.locate(ids[own])[0].tolist())


@given(
    sizes=st.lists(st.integers(5, 40), min_size=8, max_size=60),
    algo=st.sampled_from(ALGOS),
    nodes=st.sampled_from([1, 2, 3, 4, 8]),
    per_node=st.integers(1, 4),
    ranks=st.integers(1, 3),
    batch=st.integers(1, 7),
    epoch=st.integers(0, 2),
    offset=st.integers(0, 40),
)
def test_machines_keep_to_their_shards(
    sizes: list[int],
    algo: str,
    nodes: int,
    per_node: int,
    ranks: int,
    batch: int,
    epoch: int,
    offset: int,
) -> None:
    """From any position on, with any batch, where the nodes divide the canonical nodes.

    Which canonical nodes are a machine's own follows from what divides them and the batch.
    """
    canonical = nodes * per_node
    size = batch * ranks * nodes
    options = resolved(shuffle=True, shuffle_algo=algo, num_canonical_nodes=canonical)
    sequence = EpochSequence(mixture([sizes]), options)
    length = sequence.epoch_length
    # Behind the last whole round, some canonical nodes have one more sample and others none.
    start = epoch * length + min(offset, length)
    batches = (epoch * length + length // canonical * canonical - start) // size
    assume(batches > 0)
    read = []
    for node in range(nodes):
        ids = []
        for rank in range(node * ranks, (node + 1) * ranks):
            requests = endless_batches(sequence, Layout(rank, nodes * ranks, batch), start)
            ids += [i for _ in range(batches) for i in next(requests).ids.tolist()]
        shards = set(sequence.mixture.locate(np.array(ids, np.int64))[0].tolist())
        assert shards <= own_shards(sequence, epoch, node, nodes, size)
        read += ids
    # Together they read all of it.
    ids = sequence.rows(start, start + batches * size)[0]
    assert sorted(read) == sorted(ids.tolist())


def test_turns_are_those_of_the_canonical_nodes_or_untold() -> None:
    """Around the end of an epoch whose samples the canonical nodes do not divide."""
    options = resolved(shuffle=True, num_canonical_nodes=4)
    sequence = EpochSequence(mixture([[7] * 9]), options)  # 63 samples
    told = 0
    for start in range(40, 90):
        turn = sequence.phase(start, start + 8)
        if turn is not None:
            told += 1
            owners = sequence.canonical_nodes(start, start + 8)
            assert owners.tolist() == [(turn + n) % 4 for n in range(8)]
    assert told > 30


@pytest.mark.parametrize("algo", ALGOS)
def test_a_machine_fetches_its_own_shards_only(tmp_path: Path, algo: str) -> None:
    """Two machines, each with a cache of its own; what is in there after an epoch."""
    store = write_rows(tmp_path / "store", range(480), size_limit=1000)
    count = len(list((tmp_path / "store").glob("*.mds")))
    rows = []
    for node in range(2):
        cache = tmp_path / f"node-{node}"
        for rank in (2 * node, 2 * node + 1):
            one = loader(
                {"data": {"remote": store, "local": str(cache)}},
                dp_rank=rank,
                dp_world_size=4,
                batch_size=4,
                num_nodes=2,
                num_canonical_nodes=4,
                shuffle_algo=algo,
                infinite=False,
            )
            rows += [n for batch in one for n in numbers(batch)]
            sequence = one.run.source.sequence
            identifies = sampled(one.dataset.streams[0])
            assert identifies
            one.close()
        fetched = {int(p.name.split(".")[1]) for p in cache.glob("*.mds")}
        # The index holds no hashes: one shard is read by all, to know the data by its content.
        fetched -= {identifies.shard} - own_shards(sequence, 0, node, 2, 16)
        assert fetched == own_shards(sequence, 0, node, 2, 16)
        # A shard that lies across a border belongs to both sides.
        assert len(fetched) <= count // 2 + 2
    assert sorted(rows) == list(range(480))


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
def test_machines_keep_to_their_shards_in_stages(nodes: int) -> None:
    """As many shards as in an order of epochs of the same data, through a change of stage."""
    data = mixture([[100] * 96, [100] * 192])
    options = resolved(shuffle=True, num_canonical_nodes=nodes)
    even, rare = draws_per_block([0.5, 0.5]), draws_per_block([0.1, 0.9])
    sequence = StageSequence(
        data,
        options,
        samples=[9_600, 19_200],
        names=["a", "b"],
        digests=["a", "b"],
        present=[0, 1],
        stages=[Stage(0, even), Stage(4_000, rare)],
    )
    length = 16_000
    read = []
    for node in range(nodes):
        ids = []
        for rank in range(2 * node, 2 * node + 2):
            requests = endless_batches(sequence, Layout(rank, 2 * nodes, 4), 0)
            ids += [i for _ in range(length // (8 * nodes)) for i in next(requests).ids.tolist()]
        shards = set(data.locate(np.array(ids, np.int64))[0].tolist())
        # 96 and 192 shards in parts that begin with a shard: no machine reads another's.
        assert len(shards) <= (96 + 192) // nodes
        epochs = EpochSequence(data, options)
        whole = own_shards(epochs, 0, node, nodes, 8 * nodes)
        assert len(shards) <= len(whole)
        read += ids
    assert sorted(read) == sorted(sequence.rows(0, length)[0].tolist())
    assert len(set(read)) == length
    # Later, where epochs end a machine also takes what others have left, which is little.
    position, foreign = 200_000 // nodes * nodes, []
    for node in range(nodes):
        requests = endless_batches(sequence, Layout(node, nodes, 40), position)
        ids = np.concatenate([next(requests).ids for _ in range(1_000)])
        own = set[int]()
        for number, one in enumerate(sequence._epochs):
            assert one is not None
            owned, owners = one.epoch(0).rows(0, one.epoch_length)
            first = int(data.stream_shards[number])
            own |= {first + n for n in one.mixture.locate(owned[owners == node])[0].tolist()}
        foreign.append(np.mean([shard not in own for shard in data.locate(ids)[0].tolist()]))
    assert max(foreign) < 0.02
