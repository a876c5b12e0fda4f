"""Raw text tokenized on the fly: this loader, TorchTitan's, and the tokenizer alone."""

import json
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import (
    arguments,
    interleaved,
    machine,
    median,
    ratio,
    report,
    table,
    verdict,
)
from benchmarks.rows_data import once
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

BATCH = 8
SEQ_LEN = 2048
# Characters of a document, about 1,000 tokens: none is cut at the end of its row.
DOCUMENT = 4_000
DOCUMENTS = 2_400
VOCABULARY = 8_192
# Enough for a few ranks; of the default, 960, each would have two or three documents a pass.
LANES = 48
BARE, OURS, PACKED, TITAN = (
    "encode_batch_fast alone",
    "mosaic-dataloader",
    "mosaic-dataloader, packed",
    "TorchTitan HuggingFaceTextDataset",
)


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    given = parser.parse_args(arguments_given)
    where = machine()
    texts = documents()
    tokenizer = once(given.work / "tokenizer", lambda folder: train_tokenizer(folder, texts))
    shards = once(given.work / "text", lambda folder: write_text(folder, texts))
    backend = backend_of(tokenizer)
    tokens = sum(len(e.ids) for e in backend.encode_batch_fast(texts))
    passes = {
        BARE: lambda: _bare(backend, texts),
        OURS: _ours(tokenizer, shards, given.work),
        PACKED: _packed(tokenizer, shards, given.work),
        TITAN: _titan(tokenizer, texts),
    }
    for run in passes.values():
        run()
    rates = interleaved({name: _rate(run, tokens) for name, run in passes.items()}, given.rounds)
    lines = [
        [name, f"{median(own) / 1e6:.2f}", f"{ratio(own, rates[BARE]):.2f}"]
        for name, own in rates.items()
    ]
    goals = [
        [f"{own} / {other}", f"{reached:.2f}", verdict(reached, target)]
        for own in (OURS, PACKED)
        for other, target in ((TITAN, 2.5), (BARE, 0.8))
        for reached in [ratio(rates[own], rates[other])]
    ]
    intro = (
        f"{len(texts):,} documents of {DOCUMENT:,} characters of Python source, "
        f"{tokens:,} tokens of a byte-level BPE with {VOCABULARY:,} entries, batch {BATCH}, "
        f"rows of {SEQ_LEN:,}; one pass over all of them, medians of {given.rounds} rounds."
    )
    parts = [
        table(["", "million tokens/s", "of the tokenizer alone"], lines),
        table(["ratio", "median", "target"], goals),
    ]
    report(given, "text", "Text", intro, parts, {"rates": rates}, where)


def documents() -> list[str]:
    root = Path(sysconfig.get_path("stdlib"))
    found: list[str] = []
    for path in sorted(root.glob("*.py")) + sorted(root.glob("*/*.py")):
        if {"test", "tests", "site-packages", "idlelib"} & set(path.parts):
            continue
        source = path.read_text(encoding="utf-8", errors="replace")
        found += [source[i : i + DOCUMENT] for i in range(0, len(source) - DOCUMENT, DOCUMENT)]
        if len(found) >= DOCUMENTS:
            break
    return found[:DOCUMENTS]


def train_tokenizer(folder: Path, texts: list[str], vocabulary: int = VOCABULARY) -> None:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts, vocab_size=vocabulary, special_tokens=["<s>", "</s>"], show_progress=False
    )
    trained.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_text(folder: Path, texts: list[str]) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"text": "str"}) as writer:
        for text in texts:
            writer.write({"text": text})


def backend_of(tokenizer: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(tokenizer / "tokenizer.json"))


def _bare(backend: Any, texts: list[str]) -> None:
    # In one call: the best case for its threads.
    backend.encode_batch_fast(texts)


def _loader(
    tokenizer: Path, shards: Path, work: Path, **options: Any
) -> MosaicParallelAwareDataloader:
    from transformers import AutoTokenizer

    dataset = StreamingTextDataset(
        tokenizer=AutoTokenizer.from_pretrained(str(tokenizer)),
        seq_len=SEQ_LEN,
        local=str(shards),
        shuffle=True,
        cache_dir=str(work / "cache"),
        **options,
    )
    return MosaicParallelAwareDataloader(
        dataset, dp_rank=0, dp_world_size=1, batch_size=BATCH, infinite=False, drop_last=False
    )


def _ours(tokenizer: Path, shards: Path, work: Path) -> Callable[[], None]:
    loader = _loader(tokenizer, shards, work)

    def run() -> None:
        rows = sum(len(labels) for _, labels in loader)
        assert rows == -(-len(loader.dataset) // BATCH) * BATCH

    return run


def _packed(tokenizer: Path, shards: Path, work: Path) -> Callable[[], None]:
    """The same documents joined into full rows; what fills none is padded at the end of the pass.

    TorchTitan's own loader joins documents, too.
    """
    loader = _loader(tokenizer, shards, work, packing=True, packing_lanes=LANES)

    def run() -> None:
        before = sum(loader.samples_per_stream.values())
        for _ in loader:
            pass
        assert sum(loader.samples_per_stream.values()) == before + len(loader.dataset)

    return run


def _titan(tokenizer: Path, texts: list[str]) -> Callable[[], None]:
    from datasets import Dataset
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import DATASETS, HuggingFaceTextDataset

    data = Dataset.from_dict({"text": texts})
    DATASETS["benchmark"] = DatasetConfig(
        path="", loader=lambda path: data, sample_processor=lambda sample: sample["text"]
    )
    encoder = HuggingFaceTokenizer(str(tokenizer))

    def run() -> None:
        rows: Iterator[Any] = iter(
            HuggingFaceTextDataset("benchmark", "", encoder, SEQ_LEN, infinite=False)
        )
        assert sum(1 for _ in rows) > 0

    return run


def _rate(run: Callable[[], None], tokens: int) -> Callable[[], float]:
    def rate() -> float:
        begun = time.perf_counter()
        run()
        return tokens / (time.perf_counter() - begun)

    return rate


if __name__ == "__main__":
    main()
