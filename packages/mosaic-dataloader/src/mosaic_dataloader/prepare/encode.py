"""What a worker does with a block: documents in, samples or tokens out."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from mosaic_dataloader.builders.pretrained import load_pretrained
from mosaic_dataloader.prepare.corpus.blocks import Bad, Block, Position
from mosaic_dataloader.prepare.counts import Counts
from mosaic_dataloader.prepare.mds import Tokens, text_sample, token_sample
from mosaic_dataloader.rows.tokenizer import BatchTokenizer

# Documents that are tokenized at a time.
_BATCH_BYTES = 1 << 20
# Bad pieces that are told one by one; all are counted.
_TOLD = 5


@dataclass(frozen=True)
class EncoderSpec:
    """What a worker needs to know.

    Attributes:
        form: One of `FORMS`.
        definition: A `tokenizers` tokenizer as JSON; None where there is none, or it is slow.
        slow: Name and keywords of a tokenizer written in Python.
        eos_id: Token between, or after, documents.
        bos_id: Token that begins each document, if any.
        dtype: Type of the token ids.
        parse_special: Whether text that spells a special token becomes one.
        split_validation: Share of documents for validation.
    """

    form: str
    definition: str | None = field(default=None, repr=False)
    slow: tuple[str, dict[str, Any]] | None = None
    eos_id: int = -1
    bos_id: int | None = None
    dtype: str = "uint32"
    parse_special: bool = False
    split_validation: float = 0.0


@dataclass
class Part:
    """A block's share of one split.

    Attributes:
        data: Token ids of the spec's dtype (rows), or samples as they go into a shard.
        sizes: uint32[n], bytes of each sample; None for rows.
        counts: What was met.
    """

    data: bytes
    sizes: np.ndarray[Any, np.dtype[np.uint32]] | None
    counts: Counts


@dataclass
class Result:
    """A block, done.

    Attributes:
        position: The block's.
        size: The block's.
        parts: What belongs to each split that was asked for.
        bad: The first pieces that are no documents.
    """

    position: Position
    size: int
    parts: dict[str, Part]
    bad: list[Bad]


class BlockEncoder:
    """Turns blocks into what is written.

    Args:
        spec: How.
    """

    def __init__(self, spec: EncoderSpec):
        self._spec = spec
        self._dtype = np.dtype(spec.dtype)
        self._encode = None if spec.form == "text" else _batch_encoder(spec)
        # The largest 64-bit hash that still means validation, plus one.
        self._border = int(spec.split_validation * 2**64)

    def encode(self, block: Block, splits: Sequence[str]) -> Result:
        """Encode a block's documents.

        Args:
            block: The block.
            splits: The splits that are wanted; documents of others are passed over.

        Raises:
            MosaicDataError: The input cannot be read.
        """
        counts = {split: Counts() for split in splits}
        bad: list[Bad] = []
        kept: dict[str, list[Any]] = {split: [] for split in splits}
        batch: dict[str, list[str]] = {split: [] for split in splits}
        held = 0
        for document in block.documents():
            data = b"" if isinstance(document, Bad) else document.encode()
            split = self._split(data)
            if split not in counts:
                continue
            if isinstance(document, Bad):
                counts[split].skipped += 1
                if len(bad) < _TOLD:
                    bad.append(document)
            elif not data:
                counts[split].empty += 1
            elif self._encode is None:
                counts[split].documents += 1
                counts[split].text_bytes += len(data)
                kept[split].append(text_sample(data))
            else:
                counts[split].text_bytes += len(data)
                batch[split].append(document)
                held += len(data)
                if held >= _BATCH_BYTES:
                    for name in splits:
                        kept[name] += self._tokens(batch[name], counts[name])
                    batch, held = {name: [] for name in splits}, 0
        for name in splits:
            kept[name] += self._tokens(batch[name], counts[name])
        parts = {name: self._part(kept[name], counts[name]) for name in splits}
        return Result(block.position, block.size, parts, bad)

    def _split(self, data: bytes) -> str:
        if not self._spec.split_validation:
            return ""
        # Content decides, so that equal documents never lie on both sides. What is no document
        # counts for training.
        return "validation" if data and xxhash.xxh64_intdigest(data) < self._border else "train"

    def _tokens(self, texts: list[str], counts: Counts) -> Iterator[Any]:
        """Token ids, or samples, of documents; those without a token are left out."""
        if not texts:
            return
        spec = self._spec
        assert self._encode is not None
        begin = [] if spec.bos_id is None else [spec.bos_id]
        joined = array(self._dtype.char)
        for ids in self._encode(texts):
            if not ids:
                counts.empty += 1
                continue
            counts.documents += 1
            if spec.form == "rows":
                joined.extend([spec.eos_id, *begin])
                joined.fromlist(ids)
                continue
            joined.extend(begin)
            joined.fromlist(ids)
            joined.append(spec.eos_id)
            yield token_sample(self._counted(joined, counts))
            joined = array(self._dtype.char)
        if joined:
            yield self._counted(joined, counts)

    def _counted(self, ids: "array[int]", counts: Counts) -> Tokens:
        tokens: Tokens = np.frombuffer(ids, self._dtype)
        counts.tokens += len(tokens)
        counts.largest = max(counts.largest, int(tokens.max()))
        return tokens

    def _part(self, kept: list[Any], counts: Counts) -> Part:
        if self._spec.form == "rows":
            joined = np.concatenate(kept) if kept else np.empty(0, self._dtype)
            return Part(joined.tobytes(), None, counts)
        return Part(b"".join(kept), np.fromiter(map(len, kept), np.uint32, len(kept)), counts)


def _batch_encoder(spec: EncoderSpec) -> Callable[[list[str]], Iterable[list[int]]]:
    """A function from texts to lists of token ids, without special tokens."""
    tokenizer: Any
    if spec.slow is not None:
        name, kwargs = spec.slow
        tokenizer = load_pretrained(name, kwargs)
    else:
        from tokenizers import Tokenizer

        assert spec.definition is not None
        tokenizer = Tokenizer.from_str(spec.definition)
    return BatchTokenizer(
        tokenizer, add_special_tokens=False, parse_special_tokens=spec.parse_special
    ).ids
