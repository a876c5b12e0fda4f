"""Documents to token rows in MDS shards: mosaic-prepare, llm-foundry's way, the tokenizer alone."""

import json
import shutil
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mosaic_dataloader.prepare import PrepareOptions, prepare

from benchmarks.common import (
    arguments,
    describe,
    interleaved,
    machine,
    median,
    ratio,
    report,
    table,
    verdict,
)
from benchmarks.peers import foundry
from benchmarks.rows_data import once

SEQ_LEN = 2048
VOCABULARY = 8_192
# Characters of a document, about 1,000 tokens.
DOCUMENT = 4_000
# Documents that the tokenizer alone gets in a call: enough for its threads, and its results fit
# into memory.
CALL = 1_000
BARE, OURS, FOUNDRY = "encode_batch_fast alone", "mosaic-prepare", "llm-foundry's way"


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--work", type=Path, default=Path("/tmp/mosaic-benchmarks"))
    parser.add_argument("--files", type=int, default=6, help="files of about 10 MB")
    given = parser.parse_args(arguments_given)
    where = machine()
    corpus = once(given.work / f"corpus-{given.files}", lambda folder: _write(folder, given.files))
    files = sorted(corpus.glob("*.jsonl"))
    texts = [json.loads(line)["text"] for file in files for line in file.open()]
    tokenizer = once(given.work / "prepare-tokenizer", lambda folder: _train(folder, texts))
    tokens = _prepare(files, tokenizer, given.work).tokens
    contenders: dict[str, Callable[[], float]] = {
        BARE: lambda: _timed(lambda: _bare(tokenizer, texts), tokens),
        OURS: lambda: _timed(lambda: _prepare(files, tokenizer, given.work), tokens),
        # One file is enough to know its rate.
        FOUNDRY: lambda: _foundry(files[:1], tokenizer, given.work / "foundry"),
    }
    rates = interleaved(contenders, given.rounds)
    lines = [
        [name, f"{median(own) / 1e6:.2f}", f"{ratio(own, rates[BARE]):.2f}"]
        for name, own in rates.items()
    ]
    against = ratio(rates[OURS], rates[BARE])
    goals = [
        [f"{OURS} / {BARE}", f"{against:.2f}", verdict(against, 0.8)],
        [f"{OURS} / {FOUNDRY}", f"{ratio(rates[OURS], rates[FOUNDRY]):.2f}", ""],
    ]
    text = "\n".join(
        [
            "## Preparing data",
            "",
            f"{len(texts):,} documents of {DOCUMENT:,} characters of Python source in JSON Lines, "
            f"{sum(file.stat().st_size for file in files) / 1e6:.0f} MB, {tokens:,} tokens of a "
            f"byte-level BPE with {VOCABULARY:,} entries, to rows of {SEQ_LEN + 1:,} with hashes; "
            f"reading, starting the processes and writing included; medians of {given.rounds} "
            f"rounds.",
            describe(where),
            "",
            table(["", "million tokens/s", "of the tokenizer alone"], lines),
            "",
            table(["ratio", "median", "target"], goals),
        ]
    )
    report(given, "prepare", text, {"rates": rates}, where)


def _write(folder: Path, count: int) -> None:
    root = Path(sysconfig.get_path("stdlib"))
    lines: list[str] = []
    for path in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
        if {"test", "tests", "site-packages", "idlelib"} & set(path.parts):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        for start in range(0, len(source) - DOCUMENT, DOCUMENT):
            lines.append(json.dumps({"text": source[start : start + DOCUMENT]}) + "\n")
    data = "".join(lines[:2_400])
    for number in range(count):
        (folder / f"{number:03}.jsonl").write_text(data)


def _train(folder: Path, texts: list[str]) -> None:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts[:2_400], vocab_size=VOCABULARY, special_tokens=["<s>", "</s>"], show_progress=False
    )
    trained.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _bare(tokenizer: Path, texts: list[str]) -> None:
    from tokenizers import Tokenizer

    fast = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for start in range(0, len(texts), CALL):
        fast.encode_batch_fast(texts[start : start + CALL])


def _prepare(files: list[Path], tokenizer: Path, work: Path) -> Any:
    shutil.rmtree(work / "prepared", ignore_errors=True)
    names = [str(file) for file in files]
    options = PrepareOptions(
        input=names, output=work / "prepared", tokenizer=tokenizer, seq_len=SEQ_LEN
    )
    return prepare(options)


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
