"""Documents to token rows in shards: mosaic-prepare, Ray, llm-foundry's and datatrove's way."""

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import (
    arguments,
    interleaved,
    machine,
    median,
    memory,
    ratio,
    report,
    table,
    verdict,
)
from benchmarks.peers import foundry, trove
from benchmarks.rows_data import once
from benchmarks.text import DOCUMENT, DOCUMENTS, VOCABULARY, documents, train_tokenizer
from mosaic_prepare import PrepareOptions, prepare
from mosaic_prepare.engines import available_cores

SEQ_LEN = 2048
# Documents that the tokenizer alone gets in a call: enough for its threads, and its results fit
# into memory.
CALL = 1_000
BARE, OURS, RAY = "encode_batch_fast alone", "mosaic-prepare", "mosaic-prepare on Ray"
FOUNDRY, TROVE = "llm-foundry's way", "datatrove"


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--files", type=int, default=6, help="files of about 10 MB")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # As the engine does, which finds Ray imported here: workers not through `uv run`.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    parser.add_argument("--large", type=int, default=2048, help="MiB of the file for memory")
    given = parser.parse_args(arguments_given)
    where = machine()
    corpus = once(given.work / f"corpus-{given.files}", lambda folder: _write(folder, given.files))
    files = sorted(corpus.glob("*.jsonl"))
    texts = [json.loads(line)["text"] for file in files for line in file.open()]
    tokenizer = once(
        given.work / "prepare-tokenizer", lambda folder: train_tokenizer(folder, texts[:DOCUMENTS])
    )
    tokens = _prepare(files, tokenizer, given.work).tokens
    contenders: dict[str, Callable[[], float]] = {
        BARE: lambda: _timed(lambda: _bare(tokenizer, texts), tokens),
        OURS: lambda: _timed(lambda: _prepare(files, tokenizer, given.work), tokens),
        RAY: lambda: _timed(lambda: _prepare(files, tokenizer, given.work, engine="ray"), tokens),
        # One file is enough to know its rate.
        FOUNDRY: lambda: _foundry(files[:1], tokenizer, given.work / "foundry"),
        TROVE: lambda: _timed(
            lambda: trove.convert(corpus, tokenizer, available_cores(), given.work / "trove"),
            tokens,
        ),
    }
    import ray

    # A cluster is there before anybody uses it.
    ray.init(num_cpus=available_cores(), log_to_driver=False, include_dashboard=False)
    rates = interleaved(contenders, given.rounds)
    ray.shutdown()
    large = once(given.work / f"large-{given.large}", lambda folder: _large(folder, files, given))
    mib = _memory(large / "large.jsonl", tokenizer, given.work)
    lines = [
        [name, f"{median(own) / 1e6:.2f}", f"{ratio(own, rates[BARE]):.2f}"]
        for name, own in rates.items()
    ]
    against = ratio(rates[OURS], rates[BARE])
    goals = [
        [f"{OURS} / {BARE}", f"{against:.2f}", verdict(against, 0.8)],
        [f"{OURS} / {FOUNDRY}", f"{ratio(rates[OURS], rates[FOUNDRY]):.2f}", ""],
        [f"{OURS} / {TROVE}", f"{ratio(rates[OURS], rates[TROVE]):.2f}", ""],
        [f"{RAY} / {OURS}", f"{ratio(rates[RAY], rates[OURS]):.2f}", ""],
    ]
    intro = (
        f"{len(texts):,} documents of {DOCUMENT:,} characters of Python source in JSON Lines, "
        f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB, {tokens:,} tokens of a "
        f"byte-level BPE with {VOCABULARY:,} entries, to rows of {SEQ_LEN + 1:,} with hashes; "
        f"reading, starting the processes and writing included; medians of {given.rounds} "
        f"rounds."
    )
    parts = [
        table(["", "million tokens/s", "of the tokenizer alone"], lines),
        table(["ratio", "median", "target"], goals),
        f"A file of {given.large:,} MiB: at most {mib:,.0f} MiB in a worker process (its "
        f"libraries included), of {available_cores()}.",
    ]
    figures = {"rates": rates, "worker_mib": mib}
    report(given, "prepare", "Preparing data", intro, parts, figures, where)


def _write(folder: Path, count: int) -> None:
    data = "".join(json.dumps({"text": one}) + "\n" for one in documents())
    for number in range(count):
        (folder / f"{number:03}.jsonl").write_text(data)


def _bare(tokenizer: Path, texts: list[str]) -> None:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for start in range(0, len(texts), CALL):
        fast.encode_batch_fast(texts[start : start + CALL])


def _prepare(files: list[Path], tokenizer: Path, work: Path, engine: str = "processes") -> Any:
    shutil.rmtree(work / "prepared", ignore_errors=True)
    names = [str(file) for file in files]
    options = PrepareOptions(
        input=names, output=work / "prepared", tokenizer=tokenizer, seq_len=SEQ_LEN, engine=engine
    )
    return prepare(options)


def _large(folder: Path, files: list[Path], given: Any) -> None:
    data = b"".join(file.read_bytes() for file in files)
    with open(folder / "large.jsonl", "wb") as file:
        while file.tell() < given.large << 20:
            file.write(data)


def _memory(file: Path, tokenizer: Path, work: Path) -> float:
    """MiB that the largest worker process takes at most."""
    peak, done = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.2):
            # Not the process that starts them.
            for process in (w for server in _children(os.getpid()) for w in _children(server)):
                with contextlib.suppress(OSError, ValueError):  # it has just ended
                    peak = max(peak, memory("VmHWM", process))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        _prepare([file], tokenizer, work)
    finally:
        done.set()
        watch.join()
    return peak / (1 << 20)


def _children(process: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def _foundry(files: list[Path], tokenizer: Path, out: Path) -> float:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(str(tokenizer))
    begun = time.perf_counter()
    count = foundry.convert(files, loaded, SEQ_LEN + 1, out)
    return count / (time.perf_counter() - begun)


def _timed(run: Callable[[], Any], tokens: int) -> float:
    begun = time.perf_counter()
    run()
    return tokens / (time.perf_counter() - begun)


if __name__ == "__main__":
    main()
