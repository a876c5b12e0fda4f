"""A row as text: what the model sees, with document borders and ignored labels visible."""

import re
import textwrap
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from mosaic_dataloader.reading.batch_tokenizer import special_token_id

# Around positions that have no label.
IGNORED = ("⟦", "⟧")
_WIDTH = 100
_MARGIN = "  | "


def row_lines(
    inputs: Sequence[int], labels: Sequence[int], tokenizer: Any, begins: Sequence[int] = ()
) -> list[str]:
    """The row's text, or its token ids where there is no tokenizer.

    Args:
        inputs: T token ids.
        labels: T labels, negative where ignored.
        tokenizer: With `decode`, and `eos_token_id` and `bos_token_id` as in transformers or
            `eos_id` and `bos_id` as in TorchTitan. None for ids.
        begins: Places at which the documents of a packed row begin, ascending.

    Returns:
        Lines to print. A document's border has a line of its own; what has no label is in
        brackets.
    """
    real = real_tokens(labels)
    pieces: list[str] = []
    marks = list(enumerate(zip(inputs[:real], labels[:real], strict=True)))
    eos = special_token_id(tokenizer, "eos")
    borders = {eos, special_token_id(tokenizer, "bos")} - {None}

    def kind(mark: tuple[int, tuple[int, int]]) -> tuple[int, int | None, bool]:
        place, (token, label) = mark
        return bisect_right(begins, place), (token if token in borders else None), label < 0

    shown = 0
    for (document, border, ignored), group in groupby(marks, kind):
        if document > shown:
            pieces.append(f"\n════════ document {document} ════════\n")
            shown = document
        ids = [token for _, (token, _) in group]
        opening, closing = IGNORED if ignored else ("", "")
        if border is None:
            pieces.append(opening + _text(ids, tokenizer) + closing)
            continue
        name = "EOS" if border == eos else "BOS"
        for token in ids:
            text = f"{opening}{_text([token], tokenizer)}{closing}"
            pieces.append(f"\n──────── {name} {text} ────────\n")
    if real < len(labels):
        pieces.append(f"\n{IGNORED[0]}{len(labels) - real} positions of padding{IGNORED[1]}")
    text = "".join(pieces) if tokenizer is not None else re.sub(" ?\n ?", "\n", " ".join(pieces))
    lines = []
    for line in text.strip("\n").split("\n"):
        # Left as they are but for their length; an empty line stays one.
        lines += textwrap.wrap(
            line, _WIDTH, drop_whitespace=False, replace_whitespace=False, expand_tabs=False
        ) or [""]
    return [f"{_MARGIN}{line.rstrip()}".rstrip() for line in lines]


def real_tokens(labels: Sequence[int]) -> int:
    """Tokens of a row that are not padding: up to the last target, which is the last token."""
    targets = [place for place, label in enumerate(labels) if label >= 0]
    # The label of a token is the one after it, so the last token has none unless it is cut off.
    return min(len(labels), targets[-1] + 2) if targets else 1


def _text(ids: list[int], tokenizer: Any) -> str:
    if tokenizer is None:
        return " ".join(map(str, ids))
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    # What would move a terminal's cursor is spelled out.
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
