"""Documents whose tokens are known, and the packed rows that they must give."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset
from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.sequence import EpochSequence

SEQ_LEN = 16
# Of documents: empty, too short for anything, as long as rows are, and longer than many of them.
LENGTHS = [0, 1, 2, 5, 5, 16, 17, 18, 33, 150]
Row = tuple[int, ...]


def documents(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(10, 30_000, rng.choice(LENGTHS)).tolist() for _ in range(count)]


def write_tokens(out: Path, rows: list[list[int]], **options: Any) -> str:
    """Write documents as token rows; raw bytes, for an ``ndarray`` column takes no empty one."""
    options.setdefault("size_limit", 1500)
    with MDSWriter(out=str(out), columns={"tokens": "bytes"}, **options) as writer:
        for row in rows:
            writer.write({"tokens": np.array(row, np.int32).tobytes()})
    return str(out)


def write_text(out: Path, rows: list[list[int]]) -> str:
    """Write documents as words, ``w17`` for token 17."""
    with MDSWriter(out=str(out), columns={"text": "str"}, size_limit=4000) as writer:
        for row in rows:
            writer.write({"text": " ".join(f"w{token}" for token in row)})
    return str(out)


def tokenizer(template: str = "<s> $A") -> PreTrainedTokenizerFast:
    """BOS is 0, EOS 1, ``w17`` is 17."""
    vocabulary = {"<s>": 0, "</s>": 1, **{f"w{n}": n for n in range(10, 30_000)}}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<s>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(template, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def packed(streams: Any, **options: Any) -> MosaicParallelAwareDataloader:
    """A packing loader, with defaults for what a test leaves open."""
    names: tuple[str, ...] = (
        "dp_rank",
        "dp_world_size",
        "batch_size",
        "num_nodes",
        "num_workers",
        "infinite",
    )
    names += ("drop_last", "prefetch_factor", "persistent_workers", "skip_samples")
    own = {name: options.pop(name) for name in names if name in options}
    own = {"dp_rank": 0, "dp_world_size": 1, "batch_size": 8, **own}
    source = {"streams": streams} if isinstance(streams, dict) else {"local": streams}
    options = {"shuffle": True, "packing": True, "token_encoding_type": "int32", **options}
    return MosaicParallelAwareDataloader(
        StreamingTextDataset(seq_len=SEQ_LEN, **source, **options), **own
    )


def rows_of(batch: Any) -> list[Row]:
    """A batch's rows of T+1 tokens; of a padded row, the tokens that it has. Checks the rest."""
    found = []
    for inputs, labels in zip(batch[0]["input"].tolist(), batch[1].tolist(), strict=True):
        targets = [label for label in labels if label != -100]
        assert labels == targets + [-100] * (len(labels) - len(targets))
        if not targets:
            continue
        assert inputs[1 : len(targets)] == targets[:-1]
        found.append((*inputs[: len(targets)], targets[-1]))
    return found


class Ranks:
    """All ranks of a layout, side by side in this process."""

    def __init__(self, streams: Any, world_size: int, **options: Any):
        self.loaders = [
            packed(streams, dp_rank=rank, dp_world_size=world_size, **options)
            for rank in range(world_size)
        ]

    def load(self, state: dict[str, str]) -> "Ranks":
        for one in self.loaders:
            one.load_state_dict(state)
        return self

    def batches(self, count: int) -> list[list[Row]]:
        """``count`` global batches, each the rows of all ranks, sorted."""
        iterators = [iter(one) for one in self.loaders]
        return [
            sorted(row for rank in iterators for row in rows_of(next(rank))) for _ in range(count)
        ]

    @property
    def state(self) -> dict[str, str]:
        """What a checkpoint collects: the entries of all ranks."""
        states = [one.state_dict() for one in self.loaders]
        assert len({s["mosaic"] for s in states}) == 1, "the ranks' positions differ"
        assert len({k for s in states for k in s}) == sum(len(s) - 1 for s in states) + 1
        return {key: value for state in states for key, value in state.items()}

    def close(self) -> None:
        for one in self.loaders:
            one.close()
            one.dataset.close()


@dataclass
class Packing:
    """The rows of a run by what packing is said to be: nothing of the package but the order.

    Attributes:
        sequence: The order of documents.
        tokens: Tokens of each document, by sample id, EOS included.
        lanes: How many.
        skipped: Documents left out at the start.
    """

    sequence: EpochSequence
    tokens: list[list[int]]
    lanes: int
    seq_len: int = SEQ_LEN
    skipped: int = 0

    @classmethod
    def of(
        cls,
        loader: MosaicParallelAwareDataloader,
        tokens: list[list[int]],
        lanes: int,
        **order: Any,
    ) -> "Packing":
        """For a loader's data and these order options."""
        resolved = OrderOptions(shuffle=True, **order).resolve(
            num_nodes=1, global_batch=1, local_batch=1
        )
        return cls(EpochSequence(loader.dataset.mixture, resolved), tokens, lanes)

    def deal(self, epochs: int | None = None) -> Iterator[tuple[int, int, int]]:
        """Lane, position and sample of every document, in order, without end."""
        groups = gcd(self.lanes, self.sequence.options.num_canonical_nodes)
        turns = [0] * groups
        epoch = 0
        while epochs is None or epoch < epochs:
            length = self.sequence.epoch_length
            ids, nodes = self.sequence.epoch(epoch).rows(0, length)
            for place, (sample, node) in enumerate(zip(ids.tolist(), nodes.tolist(), strict=True)):
                group = node % groups
                lane = group + groups * (turns[group] % (self.lanes // groups))
                turns[group] += 1
                yield lane, epoch * length + place, sample
            epoch += 1

    def rows(self, count: int) -> list[Row]:
        """The first rows of the run, of T+1 tokens each."""
        held: list[list[int]] = [[] for _ in range(self.lanes)]
        wanted = [len(range(lane, count, self.lanes)) for lane in range(self.lanes)]
        for lane, position, sample in self.deal():
            if position >= self.skipped:
                held[lane] += self.tokens[sample]
            if all(len(h) > n * self.seq_len for h, n in zip(held, wanted, strict=True)):
                break
        found = []
        for row in range(count):
            lane, number = row % self.lanes, row // self.lanes
            begin = number * self.seq_len
            found.append(tuple(held[lane][begin : begin + self.seq_len + 1]))
        return found
