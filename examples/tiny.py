"""What the examples share: a data set that they make themselves, a model, a log."""

import argparse
import json
import zlib
from pathlib import Path

import torch
from numpy import arange, random, uint16
from streaming import MDSWriter
from torch import nn

SEQ_LEN = 32
VOCABULARY = 97
ROWS = 500


def arguments(name: str) -> argparse.Namespace:
    """The command line of an example."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    out = Path("outputs/examples") / name
    parser.add_argument("--out", type=Path, default=out, help="data, checkpoints and log")
    parser.add_argument("--steps", type=int, default=30, help="optimizer steps of the whole run")
    parser.add_argument("--save-every", type=int, default=10, help="steps between checkpoints")
    parser.add_argument("--global-batch", type=int, default=16, help="rows of a step, all ranks")
    return parser.parse_args()


def write_data(directory: Path) -> str:
    """Write MDS shards of token rows, once: counting up in steps, which is easily learned."""
    if not (directory / "index.json").exists():
        chance = random.default_rng(0)
        columns = {"tokens": "ndarray:uint16"}
        with MDSWriter(out=str(directory), columns=columns, size_limit=8000) as writer:
            for start, step in chance.integers(VOCABULARY, size=(ROWS, 2)):
                row = (start + (step % 5) * arange(SEQ_LEN + 1)) % VOCABULARY
                writer.write({"tokens": row.astype(uint16)})
    return str(directory)


class TinyModel(nn.Module):
    """A small causal transformer."""

    def __init__(self, width: int = 64, layers: int = 2):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(torch.zeros(SEQ_LEN, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits, float32[B, T, vocabulary], of token ids int64[B, T]."""
        length = tokens.shape[1]
        hidden = self.tokens(tokens) + self.places[:length]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        for block in self.blocks:
            hidden = block(hidden, src_mask=mask, is_causal=True)
        return self.head(hidden)


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy over the targets; -100 is no target."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


class Log:
    """A line of JSON per step and rank, with which two runs are compared."""

    def __init__(self, out: Path, rank: int):
        out.mkdir(parents=True, exist_ok=True)
        self._path, self._rank = out / f"rank{rank}.jsonl", rank

    def step(self, number: int, loss: float, tokens: torch.Tensor) -> None:
        """Note a step: its loss, and a checksum of each row that this rank trained on."""
        rows = [zlib.crc32(row.numpy().tobytes()) for row in tokens.cpu()]
        with self._path.open("a") as file:
            file.write(json.dumps({"step": number, "loss": loss, "rows": rows}) + "\n")
        if self._rank == 0:
            print(f"step {number}  loss {loss:.4f}", flush=True)
