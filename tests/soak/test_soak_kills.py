"""One training job, killed again and again in every way, consumes every sample exactly once."""

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset
from tests.soak.job import SEQ_LEN, Job, LifeProcesses
from tests.soak.ledger import Life, check, read

KILLS = int(os.environ.get("MOSAIC_SOAK_KILLS", "100"))
SEED = int(os.environ.get("MOSAIC_SOAK_SEED", "0"))
ROWS = 1521  # divides by no batch size
BLOCK, CANONICAL = 500, 4
INTERVAL = 4
# Processes, tensor parallel ranks among them, HSDP replicas: what 1 to 4 processes can be.
LAYOUTS = [(1, 1, 1), (2, 1, 1), (3, 1, 1), (4, 1, 1), (2, 2, 1), (4, 2, 1), (4, 1, 2)]
# Launchers that are not forked but started as a user does, which takes far longer.
PLAIN_STARTS = 0.05


def write(folder: Path, **options: Any) -> Path:
    """Rows that are their number, 17 times; 24 a shard."""
    columns = {"tokens": "ndarray:int32"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=2200, **options) as writer:
        for number in range(ROWS):
            writer.write({"tokens": np.full(SEQ_LEN + 1, number, np.int32)})
    return folder


def uninterrupted(folder: Path, count: int) -> list[int]:
    """Row numbers in the order in which a run without a kill reads them."""
    dataset = StreamingTextDataset(
        seq_len=SEQ_LEN,
        local=str(folder),
        shuffle=True,
        shuffle_block_size=BLOCK,
        num_canonical_nodes=CANONICAL,
    )
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=64)
    rows: list[int] = []
    for inputs, _ in loader:
        rows += inputs["input"][:, 0].tolist()
        if len(rows) >= count:
            break
    loader.close()
    epochs = [rows[e * ROWS : (e + 1) * ROWS] for e in range(len(rows) // ROWS)]
    assert all(sorted(epoch) == list(range(ROWS)) for epoch in epochs)
    return rows


def random_life(number: int, job: Job, chance: random.Random) -> tuple[Life, list[str]]:
    """A layout, and the command line for it."""
    processes, tensor, replicate = chance.choice(LAYOUTS)
    batch, accumulation = chance.choice([1, 2, 3, 4, 6]), chance.choice([1, 1, 1, 2])
    ranks = processes // tensor
    workers = chance.choice([0, 0, 1, 2]) if processes < 4 else chance.choice([0, 0, 1])
    life = Life(number, ranks, tensor, batch, accumulation, job.complete_step())
    options: dict[str, Any] = {
        "nproc-per-node": processes,
        "parallelism.tensor_parallel_degree": tensor,
        "parallelism.data_parallel_replicate_degree": replicate,
        "training.local_batch_size": batch,
        "training.global_batch_size": ranks * batch * accumulation,
        "checkpoint.async_mode": chance.choice(["disabled", "async"]),
        "mosaic_dataloader.num_workers": workers,
    }
    if workers and chance.random() < 0.5:
        options["mosaic_dataloader.prefetch_factor"] = chance.choice([1, 3])
    return life, [word for name, value in options.items() for word in (f"--{name}", str(value))]


def wait_for_moment(moment: str, job: Job, alive: LifeProcesses, chance: random.Random) -> str:
    """Wait for a moment worth a kill; which it was in the end."""

    def trains() -> bool:
        return f"\n{life} " in tail(job.ledger) or tail(job.ledger).startswith(f"{life} ")

    life = alive.log.stem.partition("-")[2]
    if moment == "starting":
        alive.wait_for(lambda: False, chance.uniform(0, 4))
        return moment
    assert alive.wait_for(trains, 180), f"does not train:\n{alive.log.read_text()[-6000:]}"
    # Let it get somewhere, mostly beyond the next checkpoint.
    alive.wait_for(lambda: False, chance.expovariate(1 / 1.5))
    if moment == "downloading" and alive.wait_for(job.downloads, 10):
        return moment
    if moment == "evicting":
        before = job.shards()
        if alive.wait_for(lambda: bool(before - job.shards()), 10):
            return moment
    if moment == "checkpointing" and alive.wait_for(job.writes_checkpoint, 20):
        time.sleep(chance.choice([0, 0.005, 0.02]))
        return moment
    return "training"


def tail(path: Path) -> str:
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        return file.read().decode()


def choose_victims(alive: LifeProcesses, chance: random.Random) -> tuple[str, list[int]]:
    """Who is killed."""
    ranks, workers = alive.ranks(), alive.workers()
    kinds = ["launcher", "everything"]
    if ranks:
        kinds += ["one rank", "all ranks"]
    if workers:
        kinds += ["a worker"] * 3
    kind = chance.choice(kinds)
    return kind, {
        "launcher": [alive.launcher],
        "everything": [alive.launcher, *ranks, *workers],
        "one rank": ranks and [chance.choice(ranks)],
        "all ranks": ranks,
        "a worker": workers and [chance.choice(workers)],
    }[kind]


def leftovers(job: Job) -> list[str]:
    """What lies about besides shards, the index, the lock, checkpoints and logs."""
    # The loader's own folder of this user stays, empty.
    own = job.temporary / f"mosaic-dataloader-{os.getuid()}"
    found = [str(p) for p in job.temporary.rglob("*") if p != own]
    cache = job.cache
    # One of each for good.
    expected = {cache / "index.json", cache / ".mosaic/lock", cache / ".mosaic/checked"}
    found += [
        str(p)
        for p in cache.rglob("*")
        if p.is_file() and p not in expected and not (p.parent == cache and p.suffix == ".mds")
    ]
    found += [str(p) for p in (cache / ".mosaic" / "staging").glob("*")]
    # Names of shared memory hold the process id of whoever made it.
    for name in os.listdir("/dev/shm"):
        if any(str(pid) in name.split("_") for pid in job.seen):
            found.append(f"/dev/shm/{name}")
    return found


@pytest.mark.soak
def test_kills_lose_and_repeat_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(SEED)
    store = write(tmp_path / "store", compression="zstd", hashes=["sha1"])
    plain = write(tmp_path / "plain")
    shard = max(p.stat().st_size for p in plain.glob("*.mds"))
    index = (store / "index.json").stat().st_size
    job = Job(
        tmp_path,
        seconds_per_shard=0.02,
        remote=store,
        block=BLOCK,
        canonical=CANONICAL,
        # A third of the data; a shard takes its packed size too while it comes.
        cache_limit=index + 32 * shard,
        interval=INTERVAL,
    )
    lives: list[Life] = []
    started = time.monotonic()
    try:
        for number in range(KILLS):
            life, arguments = random_life(number, job, chance)
            lives.append(life)
            forked = chance.random() >= PLAIN_STARTS
            alive = job.start(number, arguments, forked=forked)
            moment = chance.choices(
                ["starting", "training", "downloading", "evicting", "checkpointing"],
                [1, 3, 2, 2, 2],
            )[0]
            moment = wait_for_moment(moment, job, alive, chance)
            kind, victims = choose_victims(alive, chance)
            alive.kill(victims)
            life.kill = f"{kind} while {moment}"
            code = alive.wait(90)
            assert code != 0, life
            begun = alive.first_step()
            assert begun in (None, life.resumed + 1), (life, begun)
            # Nothing is waited for but the ranks, and nothing is cleaned.
            print(f"{number}: {life}, {code}", flush=True)
        life, arguments = random_life(KILLS, job, chance)
        lives.append(life)
        steps = life.resumed + 2 * INTERVAL + 1
        alive = job.start(KILLS, [*arguments, "--training.steps", str(steps)], forked=False)
        assert alive.wait(300) == 0, alive.log.read_text()[-6000:]
        assert job.complete_step() == steps
        deadline = time.monotonic() + 30
        while job.processes():
            assert time.monotonic() < deadline, "processes outlive the job"
            time.sleep(0.1)
    finally:
        job.close()
    minutes = (time.monotonic() - started) / 60

    ledger = read(job.ledger)
    handed_out = sum(len(b) for s in ledger.values() for r, _ in s.values() for b in r.values())
    expected = uninterrupted(plain, handed_out * 6 + 1)
    audit = check(ledger, lives, expected)
    assert audit.steps == steps
    counts = Counter(audit.rows)
    full, rest = divmod(len(audit.rows), ROWS)
    assert set(counts) == set(range(ROWS)) or not full
    assert sorted(counts.values()).count(full + 1) == rest, "samples are missing or double"
    assert set(counts.values()) <= {full, full + 1}

    kills = Counter(life.kill for life in lives[:-1])
    with capsys.disabled():
        print(f"\n{KILLS} kills over {len(lives)} lives in {minutes:.1f} minutes, seed {SEED}")
        for kill, count in sorted(kills.items()):
            print(f"  {count:3d} {kill}")
        print(f"  {audit.steps} steps, {audit.redone} redone after kills")
        print(f"  {len(audit.rows)} samples in {len(audit.rows) / ROWS:.1f} epochs, none missing,")
        print(f"  none double; {audit.handed_out} handed out with those redone", flush=True)
    assert leftovers(job) == []
    assert len(list(job.checkpoints.glob("step-*"))) <= 5
