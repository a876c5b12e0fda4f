"""`torchrun --nnodes 2 … apps/train`: hosts keep to their shards, and one that dies is survived."""

import json
import time
from pathlib import Path

import pytest
from integration_support.client import SEQ_LEN, RankServer, command_line
from integration_support.fork_client import ForkServer
from integration_support.hosts import Host, Job, hosts
from integration_support.ledger import RankLedger, cut

BATCH = 12
ROWS = 251
INTERVAL = 4


def options(folder: Path, host: Host, store: str, steps: int, local_batch: int) -> list[str]:
    """The same command on all hosts, but for their disks, which have the same paths elsewhere."""
    stream = "--mosaic_dataloader.dataset.streams.a"
    return command_line(
        folder,
        *(f"{stream}.remote", store, f"{stream}.local", str(host.cache)),
        *("--mosaic_dataloader.dataset.cache_dir", str(host.folder / "orders")),
        # By default as many shards as there are here would be fetched ahead, those of the epochs'
        # ends among them, where a row of a batch may change sides.
        "--mosaic_dataloader.dataset.predownload=12",
        *(f"--training.steps={steps}", f"--training.local_batch_size={local_batch}"),
        *("--checkpoint.enable", f"--checkpoint.interval={INTERVAL}"),
    )


def shards(host: Host) -> set[str]:
    return {path.name for path in host.cache.glob("*.mds")}


def holders(store: str) -> list[str]:
    """The shard of each row."""
    index = json.loads(Path(store, "index.json").read_text())
    return [s["raw_data"]["basename"] for s in index["shards"] for _ in range(s["samples"])]


def identifying(store: str) -> str:
    """The smallest shard with eight samples or more, by which a state knows its data."""
    index = json.loads(Path(store, "index.json").read_text())
    assert all(s["samples"] >= 8 for s in index["shards"][:-1])
    enough = [s["raw_data"] for s in index["shards"] if s["samples"] >= 8]
    found: str = min(enough, key=lambda raw: raw["bytes"])["basename"]
    return found


def saved(out: Path) -> list[int]:
    """Steps with a whole checkpoint."""
    return sorted(int(p.parent.name.split("-")[1]) for p in out.glob("checkpoint/*/.metadata"))


@pytest.mark.slow
def test_hosts_keep_to_their_shards_and_the_run_outlives_one(
    ranks: RankServer, torchruns: ForkServer, tmp_path: Path
) -> None:
    store = str(tmp_path / "store")
    rows_of_tokens = [[number] * (SEQ_LEN + 1) for number in range(ROWS)]
    ranks.run("write_rows", out=store, rows=rows_of_tokens, size_limit=4000).succeeded()
    listed = ranks.run(
        "order",
        streams={"a": {"local": store}},
        count=4 * ROWS,
        seq_len=SEQ_LEN,
        shuffle=True,
        num_canonical_nodes=2,  # what two hosts get by default
    )
    (line,) = listed.succeeded().ledger(0).of("order")
    order, holder = line["rows"], holders(store)
    folders = [tmp_path / name for name in ("two", "one")]
    for folder in folders:
        folder.mkdir()
    out = tmp_path / "shared-storage"
    shared = ["--job.dump_folder", str(out)]
    with hosts(tmp_path, 2) as both:
        # Two ranks on each host hold one replica: both have the host's data-parallel rank.
        given = {
            h.number: [
                *options(folders[0], h, store, 1000, BATCH // 2),
                *shared,
                "--parallelism.tensor_parallel_degree=2",
            ]
            for h in both
        }
        job = Job(torchruns, both, 2, folders[0], given)
        try:
            _until_read(job, folders[0], ROWS // BATCH + 1)
            job.kill(1)
            # The host that is left does not wait for ever.
            codes = job.wait(120)
        finally:
            job.close()
        assert codes[0] > 0, job.logs()
        assert codes[1] < 0
        logs = [(folders[0] / f"host{host.number}.log").read_text() for host in both]
        assert [log.count("step:  3/1000 ") for log in logs] == [1, 0], "one rank of all logs"
        ledgers = [RankLedger.read(folders[0], rank) for rank in range(4)]
        # Under torchrun every rank also builds the loader to check it; the last one is read from.
        built = [ledger.of("built")[-1] for ledger in ledgers]
        assert [line["dp_rank"] for line in built] == [0, 0, 1, 1]
        least = min(len(ledger.rows) for ledger in ledgers)
        rows = [ledger.rows[:least] for ledger in ledgers]
        assert rows[0] == rows[1]
        assert rows[2] == rows[3]
        read = [sorted(a + b) for a, b in zip(rows[0], rows[2], strict=True)]
        assert read == cut(order, 0, BATCH, least)
        # Each fetched what its canonical node holds, and the shard across the border is both's.
        # Both looked at the first rows before the start, and at the shard that identifies the data.
        looked_at = {holder[0], identifying(store)}
        for host in both:
            own = {holder[row] for batch in ledgers[2 * host.number].rows for row in batch}
            assert own <= shards(host) <= own | looked_at
        assert shards(both[0]) | shards(both[1]) == set(holder)
        assert len((shards(both[0]) & shards(both[1])) - looked_at) <= 1
        step = saved(out)[-1]
        alone = [*options(folders[1], both[0], store, step + 3, BATCH), *shared]
        job = Job(torchruns, both[:1], 1, folders[1], {0: alone})
        try:
            assert job.wait(300) == [0], job.logs()
        finally:
            job.close()
        ledger = RankLedger.read(folders[1], 0)
        assert [sorted(batch) for batch in ledger.rows] == cut(order, step * BATCH, BATCH, 3)
        loaded = ledger.of("loaded")[-1]
        state = json.loads(loaded["mosaic"])
        assert state["samples_seen"] == step * BATCH
        assert state["order"]["num_canonical_nodes"] == 2


def _until_read(job: Job, folder: Path, batches: int) -> None:
    """Wait until every rank has read so many batches."""
    end = time.monotonic() + 300
    while time.monotonic() < end and job.running():
        files = [folder / f"rank{rank}.jsonl" for rank in range(4)]
        if all(f.exists() and f.read_text().count('"batch"') >= batches for f in files):
            return
        time.sleep(0.05)
    raise AssertionError(f"no {batches} batches were read\n{job.logs()}")
