"""The messages that the sources can give."""

import ast
import re
from collections.abc import Iterator
from functools import cache

from tests.docs_support.pages import ROOT

SOURCES = ("packages/*/src/**/*.py", "apps/train/mosaic_train/**/*.py")


def is_message(quoted: str) -> bool:
    """Whether the sources have a text with these words, "…" standing for what varies."""
    words = [piece.strip() for piece in quoted.split("…") if piece.strip()]
    pattern = re.compile(".*".join(map(re.escape, words)), re.S)
    return any(pattern.search(text) for text in _texts())


@cache
def _texts() -> tuple[str, ...]:
    return tuple(
        text
        for glob in SOURCES
        for path in sorted(ROOT.glob(glob))
        for text in _literals(ast.parse(path.read_text()))
    )


def _literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sd]", "…", node.value)
