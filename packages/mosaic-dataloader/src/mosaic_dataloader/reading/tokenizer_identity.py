"""Which tokenizer is this? By what it does, not by its name or by how its files are written."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import Any

from mosaic_dataloader.reading.batch_tokenizer import (
    BatchTokenizer,
    eos_token_id,
    wrapped_tokenizers,
)

# Letters, cases, accents, digits, spaces, line ends, punctuation, code, other scripts, an emoji:
# tokenizers of one vocabulary that treat any of these differently are told apart.
_PROBE = (
    "The quick brown fox, aged 1234567.89, can't jump over 2 lazy DOGS...  twice!\r\n\n"
    "\tdef Größe(x_1):\n        return {'ï': x_1 ** -2}  # naïve café 北京 привет नमस्ते 🙂\n"
    "https://example.org/a?b=c&d=%20 <tag/>   end "
)
# Characters that normalizations change: composed and not, ligatures, full width, odd spaces.
_FORMS = "e\u0301 \u00e9 \ufb01 \uff21 \u2460 \u338f \u00a0 \u200b \u3000 \u1e9e \u0130 \u00ad\tx"
# Entries of the vocabulary that are encoded again, so that other merges show.
_ENTRIES = 512


@dataclass(frozen=True)
class TokenizerIdentity:
    """What makes token ids mean what they mean.

    Attributes:
        name: For messages: its name, or the last part of its directory.
        fingerprint: Digest of its vocabulary, without added tokens, and of the token ids that it
            makes of a probe text.
        vocab_size: Its largest token id plus one, added tokens included.
        eos_id: Its end-of-text token; None if it has none.
    """

    name: str
    fingerprint: str
    vocab_size: int
    eos_id: int | None

    def __str__(self) -> str:
        """As messages show it."""
        return f"{self.name!r} ({self.vocab_size:,} entries, fingerprint {self.fingerprint})"

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)


def identify_tokenizer(tokenizer: Any, name: str) -> TokenizerIdentity | None:
    """Describe a tokenizer of a kind that `BatchTokenizer` takes; None for another kind.

    ``name`` is its name or directory.
    """
    encoders = (
        each
        for each in wrapped_tokenizers(tokenizer)
        if hasattr(each, "encode_batch") or hasattr(each, "added_tokens_encoder")
    )
    inner = next(encoders, None)
    if inner is None:
        return None
    fast = getattr(inner, "backend_tokenizer", inner)
    if hasattr(fast, "encode_batch"):
        vocabulary = fast.get_vocab(with_added_tokens=False)
        every = fast.get_vocab(with_added_tokens=True)
        probe = _without_limits(fast).encode(_PROBE, add_special_tokens=False).ids
    else:
        every = inner.get_vocab()
        vocabulary = {token: i for token, i in every.items() if i < inner.vocab_size}
        probe = inner(_PROBE, add_special_tokens=False, truncation=False, padding=False)
        probe = list(probe["input_ids"])
    digest = hashlib.sha256(json.dumps([sorted(vocabulary.items()), probe]).encode())
    return TokenizerIdentity(
        name=os.path.basename(os.path.abspath(name)) if os.path.isdir(name) else name,
        fingerprint=digest.hexdigest()[:16],
        vocab_size=max(every.values(), default=-1) + 1,
        eos_id=eos_token_id(tokenizer),
    )


def _without_limits(fast: Any) -> Any:
    """The same tokenizer with no truncation or padding set; the given one is left as it is."""
    if fast.truncation is None and fast.padding is None:
        return fast
    twin = type(fast).from_str(fast.to_str())
    twin.no_truncation()
    twin.no_padding()
    return twin


def encoding_digest(tokenizer: BatchTokenizer) -> str:
    """Digest of all that a tokenizer makes of text, as the loader encodes it.

    Beyond the fingerprint, this is added tokens, special tokens that it puts around a text, and
    merges and normalizations that the fingerprint's probe does not show.
    """
    vocabulary: dict[str, int] = tokenizer.fast.get_vocab()
    entries = sorted(vocabulary.items())
    step = max(1, len(entries) // _ENTRIES)
    words = " ".join(entry.strip("Ġ▁#") for entry, _ in entries[::step])
    ids = [encoded.tolist() for encoded in tokenizer.encode([_PROBE, _FORMS, words, ""])]
    return hashlib.sha256(json.dumps([entries, ids]).encode()).hexdigest()[:16]


def definition_digest(tokenizer: BatchTokenizer) -> str:
    """Digest of a tokenizer's definition, which states of version 1 hold.

    It changes with the release of `tokenizers` that writes the definition.
    """
    if hasattr(tokenizer.fast, "to_str"):
        definition = json.loads(tokenizer.fast.to_str())
        # These change while a tokenizer is used, not what it makes of a text here.
        definition.pop("truncation", None)
        definition.pop("padding", None)
        text = json.dumps(definition, sort_keys=True)
    else:
        inner = tokenizer.inner
        text = json.dumps([type(inner).__name__, sorted(inner.get_vocab().items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
