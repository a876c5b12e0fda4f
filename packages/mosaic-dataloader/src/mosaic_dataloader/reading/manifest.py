"""What `mosaic-prepare` noted beside a stream's shards, and whether training agrees with it.

Rows of another tokenizer train to a bad model without a word; the note names the tokenizer.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.reading.batch_tokenizer import wrapped_tokenizers
from mosaic_dataloader.reading.tokenizer_identity import TokenizerIdentity, identify_tokenizer
from mosaic_dataloader.storage.contents import refuse_link_outside, shown
from mosaic_dataloader.storage.layout import manifest_paths
from mosaic_dataloader.storage.streams import DataStream

# Of a tokenizer; a Hugging Face name or a directory's.
_LONGEST_NAME = 512

logger = logging.getLogger(__name__)
# Its own logger: every process warns, and a caller that reports it otherwise silences this one.
row_length_logger = logging.getLogger("mosaic_dataloader.row_length")


def check_prepared(
    streams: Sequence[DataStream], tokenizer: Any, seq_len: int, *, packing: bool = False
) -> None:
    """Compare tokenizer and row length with the manifests of streams that hold tokens.

    Streams without a manifest were not made by `mosaic-prepare`, or copied without it: nothing is
    known of them. A tokenizer of None is not compared.

    Raises:
        MosaicDataError: A stream was made with another tokenizer, has ids beyond its vocabulary, or
            is to be packed and holds rows that are full already.
    """
    own: TokenizerIdentity | None = None
    for stream in streams:
        if stream.column.kind == "text":
            continue
        note = _manifest(stream)
        made = note.get("tokenizer")
        if tokenizer is not None and isinstance(made, Mapping):
            if own is None:
                own = identify_tokenizer(tokenizer, _name(tokenizer))
            if own is None:
                logger.warning(
                    'stream "%s": cannot tell whether a tokenizer of type %s is the one that its '
                    "rows were made with",
                    stream.name,
                    type(tokenizer).__name__,
                )
            elif own.vocab_size:
                # One without entries encodes nothing, and is compared with nothing.
                _compare(stream.name, TokenizerIdentity(**made), own, note)
        if not packing:
            _compare_length(stream.name, note, seq_len)
        elif note.get("form") == "rows":
            # Rows overlap by a token, which would be trained on twice if they were joined.
            raise MosaicDataError(
                f'stream "{stream.name}" was prepared as full rows, and packing = true would join '
                f"them as if they were documents; set packing to false, or prepare the data with "
                f"--form documents"
            )


def _manifest(stream: DataStream) -> dict[str, Any]:
    """A stream's manifest; empty if it has none, or one of something else.

    What is read of it has the types that `mosaic-prepare` writes.

    Raises:
        MosaicDataError: It cannot be read.
    """
    for path in manifest_paths(stream.directory):
        if not os.path.isfile(path):
            continue
        try:
            refuse_link_outside(stream.directory, os.path.relpath(path, stream.directory))
            with open(path, encoding="utf-8") as file:
                note = json.load(file)
            if isinstance(note, dict) and note.get("complete") is True:
                _check_types(note)
                return note
        except (OSError, ValueError, RecursionError) as error:
            raise MosaicDataError(
                f'stream "{stream.name}": cannot read {path} ({error}); copy it again, or delete '
                f"it to do without its checks"
            ) from error
    return {}


def _check_types(note: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that `mosaic-prepare` does not write."""
    for key in ("facts", "options"):
        if not isinstance(note.get(key, {}), dict):
            raise ValueError(f"{key} is {shown(note[key])}, not a mapping")
    numbers = {
        "facts.largest": note.get("facts", {}).get("largest", -1),
        "facts.tokens": note.get("facts", {}).get("tokens", 0),
    }
    if note.get("form") == "rows":
        numbers["options.seq_len"] = note.get("options", {}).get("seq_len", 1)
    made = note.get("tokenizer")
    if made is not None:
        wanted = {field.name for field in fields(TokenizerIdentity)}
        if not isinstance(made, dict) or set(made) != wanted:
            raise ValueError(f"tokenizer is {shown(made)}, which describes none")
        for key in ("name", "fingerprint"):
            if not isinstance(made[key], str) or len(made[key]) > _LONGEST_NAME:
                raise ValueError(f"tokenizer.{key} is {shown(made[key])}, not a text")
        numbers["tokenizer.vocab_size"] = made["vocab_size"]
        numbers["tokenizer.eos_id"] = -1 if made["eos_id"] is None else made["eos_id"]
    for key, value in numbers.items():
        if type(value) is not int or not -1 <= value < 1 << 63:
            raise ValueError(f"{key} is {shown(value)}, not a whole number")
    if "options.seq_len" in numbers and numbers["options.seq_len"] < 1:
        raise ValueError(f"options.seq_len is {numbers['options.seq_len']}, not a row's length")


def _compare(
    name: str, made: TokenizerIdentity, own: TokenizerIdentity, note: Mapping[str, Any]
) -> None:
    if made.fingerprint != own.fingerprint:
        raise MosaicDataError(
            f'stream "{name}" was prepared with tokenizer {made}, but training uses {own}; give '
            f"the one that made the data (in a configuration, set mosaic_tokenizer.name), or "
            f"prepare the data with this one"
        )
    largest = note.get("facts", {}).get("largest", -1)
    if largest >= own.vocab_size:
        raise MosaicDataError(
            f'stream "{name}" holds token id {largest}, but tokenizer {own} ends at '
            f"{own.vocab_size - 1}; add the tokens that it had when the data was prepared "
            f"(in a configuration, mosaic_tokenizer.kwargs), or prepare the data with this one"
        )
    # A bare tokenizer knows no end-of-text token.
    if own.eos_id is not None and made.eos_id != own.eos_id:
        logger.warning(
            'stream "%s": documents end with token %s there, but the tokenizer\'s end-of-text '
            "token is %s; set its eos_token (in a configuration, "
            "mosaic_tokenizer.kwargs.eos_token) if documents are to be told apart",
            name,
            made.eos_id,
            own.eos_id,
        )


def prepared_tokens(stream: DataStream) -> int | None:
    """Tokens of a stream that `mosaic-prepare` noted; None for text, or where it noted nothing."""
    return _manifest(stream).get("facts", {}).get("tokens") or None


def prepared_row_length(stream: DataStream) -> int | None:
    """Targets in a full row, T, as `mosaic-prepare` noted; None where it made no rows."""
    return _noted_length(_manifest(stream))


def prepared_form(stream: DataStream) -> str | None:
    """What `mosaic-prepare` noted that it made: rows, documents or text; None without a note."""
    form = _manifest(stream).get("form")
    return form if isinstance(form, str) else None


def _noted_length(note: Mapping[str, Any]) -> int | None:
    return note.get("options", {}).get("seq_len") if note.get("form") == "rows" else None


def _compare_length(name: str, note: Mapping[str, Any], seq_len: int) -> None:
    targets = _noted_length(note)
    if targets is None or targets == seq_len:
        return
    short, long = sorted((targets, seq_len))
    cost, wanted = (
        ("each step is padding", "longer")
        if targets < seq_len
        else ("the tokens are never trained on", "shorter")
    )
    row_length_logger.warning(
        'stream "%s": its rows were prepared for seq_len = %d, training has %d: %.0f %% of %s; '
        "prepare %s rows, or train with seq_len = %d",
        name,
        targets,
        seq_len,
        100 * (1 - short / long),
        cost,
        wanted,
        targets,
    )


def _name(tokenizer: Any) -> str:
    """How the tokenizer was called when it was loaded."""
    names = (getattr(inner, "name_or_path", None) for inner in wrapped_tokenizers(tokenizer))
    return next((str(name) for name in names if name), "without a name")
