"""On one GPU: tokens/s, MFU and the wait for data, with this loader and with TorchTitan's own.

One trainer of TorchTitan 0.2.2 is fed by each loader in turn, so that model, compilation and
memory are the same for all: token rows, documents packed on the fly, and TorchTitan's own loader
of the same text. To try it on a CPU:
`--flavor debugmodel --vocabulary 2048 --seq-len 128`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import text
from benchmarks.common import (
    arguments,
    machine,
    median,
    progress,
    ratio,
    report,
    table,
)
from benchmarks.rows_data import once
from benchmarks.train import app_trainer
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

ROWS, PACKED, TITAN = (
    "mosaic-dataloader, token rows",
    "mosaic-dataloader, packed text",
    "TorchTitan's text loader",
)
STEPS_BEFORE = 5


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="qwen3")
    parser.add_argument("--flavor", default="0.6B")
    parser.add_argument("--vocabulary", type=int, default=text.VOCABULARY, help="of the tokenizer")
    parser.add_argument("--seq-len", type=int, default=4096, help="tokens of a row")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--steps", type=int, default=20, help="of each loader, per round")
    given = parser.parse_args(arguments_given)
    where = machine()
    texts = text.documents()
    tokenizer = once(
        given.work / f"gpu-tokenizer-{given.vocabulary}",
        lambda folder: text.train_tokenizer(folder, texts, given.vocabulary),
    )
    shards = once(given.work / "text", lambda folder: text.write_text(folder, texts))
    rows = once(
        given.work / f"gpu-rows-{given.seq_len}-{given.vocabulary}",
        lambda folder: _write_rows(folder, texts, tokenizer, given.seq_len),
    )
    with tempfile.TemporaryDirectory() as folder:
        options = _options(given, folder, rows, tokenizer)
        with app_trainer(options) as trainer:
            device, found = _measured(trainer, _loaders(given, tokenizer, shards, texts), given)
    lines = [
        [
            name,
            f"{median(own['tokens/s']):,.0f}",
            _percent(own["MFU"]),
            f"{1e6 * median(own['wait']):,.0f}",
            f"{1e3 * median(own['step']):,.1f}",
            f"{ratio(own['wait'], own['step']):.4%}",
        ]
        for name, own in found.items()
    ]
    intro = (
        f"{given.model} {given.flavor}, rows of {given.seq_len:,} tokens, batch {given.batch}, on "
        f"{device}; {given.steps} steps of each loader a round, medians of {given.rounds} rounds."
    )
    parts = [table(["", "tokens/s", "MFU", "wait, µs", "step, ms", "of the step"], lines)]
    report(given, "gpu", "GPU", intro, parts, {"device": device, "found": found}, where)


def _percent(shares: list[float]) -> str:
    return f"{median(shares):.1%}" if shares else ""


def _options(given: argparse.Namespace, folder: str, rows: Path, tokenizer: Path) -> list[str]:
    import torch

    gpu = torch.cuda.is_available()
    config = Path(folder, "gpu.toml")
    config.write_text("")
    return [
        *("--config-path", str(config), "--job.dump_folder", folder),
        *("--model.name", given.model, "--model.flavor", given.flavor),
        *("--mosaic_tokenizer.name", str(tokenizer)),
        *("--mosaic_dataloader.dataset.streams.rows.local", str(rows)),
        *("--training.seq_len", str(given.seq_len)),
        *("--training.local_batch_size", str(given.batch)),
        *("--training.mixed_precision_param", "bfloat16" if gpu else "float32"),
        *(["--compile.enable"] if gpu else []),
        *("--metrics.log_freq", "1000000", "--activation_checkpoint.mode", "none"),
    ]


def _write_rows(folder: Path, texts: list[str], tokenizer: Path, seq_len: int) -> None:
    """The documents, ended by EOS and joined, in rows of seq_len + 1 tokens."""
    import numpy as np
    from streaming import MDSWriter

    encodings = text.backend_of(tokenizer).encode_batch_fast([f"{one}</s>" for one in texts])
    flat = np.concatenate([np.asarray(one.ids, np.uint16) for one in encodings])
    columns = {"tokens": f"ndarray:uint16:{seq_len + 1}"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for begin in range(0, len(flat) - seq_len, seq_len):
            writer.write({"tokens": flat[begin : begin + seq_len + 1]})


def _loaders(
    given: argparse.Namespace, tokenizer: Path, shards: Path, texts: list[str]
) -> dict[str, Any]:
    from datasets import Dataset
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import DATASETS, HuggingFaceTextDataset
    from transformers import AutoTokenizer

    packed = MosaicParallelAwareDataloader(
        StreamingTextDataset(
            tokenizer=AutoTokenizer.from_pretrained(str(tokenizer)),
            seq_len=given.seq_len,
            local=str(shards),
            shuffle=True,
            cache_dir=str(given.work / "cache"),
            packing=True,
            packing_lanes=text.LANES,
        ),
        dp_rank=0,
        dp_world_size=1,
        batch_size=given.batch,
    )
    data = Dataset.from_dict({"text": texts})
    DATASETS["benchmark"] = DatasetConfig(
        path="", loader=lambda path: data, sample_processor=lambda sample: sample["text"]
    )

    def titan() -> Iterator[Any]:
        """As `build_text_dataloader` does, whose `ParallelAwareDataloader` has no workers."""
        from torchtitan.components.dataloader import ParallelAwareDataloader

        encoder = HuggingFaceTokenizer(str(tokenizer))
        dataset = HuggingFaceTextDataset("benchmark", "", encoder, given.seq_len, infinite=True)
        return iter(
            ParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=given.batch)
        )

    return {PACKED: packed, TITAN: titan()}


def _measured(
    trainer: Any, others: Mapping[str, Any], given: argparse.Namespace
) -> tuple[str, dict[str, dict[str, list[float]]]]:
    """Per loader and round: tokens/s, MFU (empty without a GPU), mean wait and step in seconds."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "the CPU"
    tokens = given.batch * given.seq_len
    metrics = trainer.metrics_processor
    loaders = {ROWS: trainer.dataloader, **others}
    running = {name: trainer.batch_generator(loader) for name, loader in loaders.items()}
    found: dict[str, dict[str, list[float]]] = {
        name: {"tokens/s": [], "MFU": [], "wait": [], "step": []} for name in running
    }
    names = list(running)
    for number in range(given.rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            # The first round compiles.
            steps = given.steps if number else STEPS_BEFORE
            metrics.data_loading_times.clear()
            begun = time.perf_counter()
            for _ in range(steps):
                trainer.step += 1
                trainer.train_step(running[name])
            if cuda:
                torch.cuda.synchronize()
            took = (time.perf_counter() - begun) / steps
            if not number:
                continue
            own = found[name]
            own["step"].append(took)
            own["wait"].append(statistics.mean(metrics.data_loading_times))
            own["tokens/s"].append(tokens / took)
            if cuda:
                flops = metrics.num_flops_per_token * tokens / took
                own["MFU"].append(flops / metrics.gpu_peak_flops)
        progress(f"round {number} of {given.rounds}")
    return device, found


if __name__ == "__main__":
    main()
