"""What `mosaic-prepare` noted beside a stream's shards, and whether training agrees with it.

Rows of another tokenizer train to a bad model without a word; the note names the tokenizer.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.reading.tokenizer_identity import TokenizerIdentity, identify_tokenizer
from mosaic_dataloader.shards.layout import manifest_paths
from mosaic_dataloader.shards.streams import DataStream

logger = logging.getLogger(__name__)
# A logger of its own: every process warns, and whoever tells it in another way silences this one.
row_length_logger = logging.getLogger("mosaic_dataloader.row_length")


def check_prepared(
    streams: Sequence[DataStream], tokenizer: Any, seq_len: int, *, packing: bool = False
) -> None:
    """Compare tokenizer and row length with the manifests of streams that hold tokens.

    Streams without a manifest were not made by `mosaic-prepare`, or copied without it: nothing is
    known of them.

    Args:
        streams: Opened streams.
        tokenizer: As `StreamingTextDataset` takes it; None compares no tokenizer.
        seq_len: Tokens in a row, T.
        packing: Whether samples are joined as documents.

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
        if packing:
            _refuse_rows(stream.name, note)
        else:
            _compare_length(stream.name, note, seq_len)


def _manifest(stream: DataStream) -> dict[str, Any]:
    """A stream's manifest; empty if it has none, or one of something else."""
    for path in manifest_paths(stream.directory):
        if not os.path.isfile(path):
            continue
        try:
            with open(path, encoding="utf-8") as file:
                note = json.load(file)
        except (OSError, ValueError) as error:
            raise MosaicDataError(
                f'stream "{stream.name}": cannot read {path} ({error}); copy it again, or delete '
                f"it to do without its checks"
            ) from error
        if isinstance(note, dict) and note.get("complete") is True:
            return note
    return {}


def _compare(
    name: str, made: TokenizerIdentity, own: TokenizerIdentity, note: Mapping[str, Any]
) -> None:
    if made.fingerprint != own.fingerprint:
        raise MosaicDataError(
            f'stream "{name}" was prepared with tokenizer {made}, but training uses {own}; set '
            f"mosaic_tokenizer.name to the one that made the data, or prepare the data with this "
            f"one"
        )
    largest = note.get("facts", {}).get("largest", -1)
    if largest >= own.vocab_size:
        raise MosaicDataError(
            f'stream "{name}" holds token id {largest}, but tokenizer {own} ends at '
            f"{own.vocab_size - 1}; add the tokens that it had when the data was prepared "
            f"(mosaic_tokenizer.kwargs), or prepare the data with this one"
        )
    # A bare tokenizer knows no end-of-text token.
    if own.eos_id is not None and made.eos_id != own.eos_id:
        logger.warning(
            'stream "%s": documents end with token %s there, but the tokenizer\'s end-of-text '
            "token is %s; set eos_token in mosaic_tokenizer.kwargs if documents are to be told "
            "apart",
            name,
            made.eos_id,
            own.eos_id,
        )


def _refuse_rows(name: str, note: Mapping[str, Any]) -> None:
    """Rows overlap by a token, which would be trained on twice if they were joined."""
    if note.get("form") == "rows":
        raise MosaicDataError(
            f'stream "{name}" was prepared as full rows, and packing = true would join them as if '
            f"they were documents; set packing to false, or prepare the data with --form documents"
        )


def prepared_row_length(stream: DataStream) -> int | None:
    """Targets in a full row of a stream, T, by what `mosaic-prepare` noted when it made rows.

    Returns:
        None where it made something else, or nothing.

    Raises:
        MosaicDataError: There is a note that cannot be read.
    """
    return _noted_length(_manifest(stream))


def _noted_length(note: Mapping[str, Any]) -> int | None:
    return note.get("options", {}).get("seq_len") if note.get("form") == "rows" else None


def _compare_length(name: str, note: Mapping[str, Any], seq_len: int) -> None:
    targets = _noted_length(note)
    if targets is None or targets == seq_len:
        return
    if targets < seq_len:
        row_length_logger.warning(
            'stream "%s": its rows were prepared for seq_len = %d, training has %d: %.0f %% of '
            "each step is padding; prepare longer rows, or train with seq_len = %d",
            name,
            targets,
            seq_len,
            100 * (1 - targets / seq_len),
            targets,
        )
    else:
        row_length_logger.warning(
            'stream "%s": its rows were prepared for seq_len = %d, training has %d: %.0f %% of '
            "the tokens are never trained on; prepare shorter rows, or train with seq_len = %d",
            name,
            targets,
            seq_len,
            100 * (1 - seq_len / targets),
            targets,
        )


def _name(tokenizer: Any) -> str:
    """How the tokenizer was called when it was loaded."""
    while tokenizer is not None:
        name = getattr(tokenizer, "name_or_path", None)
        if name:
            return str(name)
        tokenizer = getattr(tokenizer, "tokenizer", None)
    return "without a name"
