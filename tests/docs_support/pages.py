"""Pages, their fenced blocks, inline code, links and headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\S*)[^\n]*\n(.*?)^\1```$", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.M)


def pages() -> list[Path]:
    """Every page that a user or a developer reads."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for pattern in ("packages/*/README.md", "examples/*.md", "benchmarks/*.md"):
        found += ROOT.glob(pattern)
    return sorted(found)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    place: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """All blocks in one of these languages; "" is a block of none."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in _FENCE.finditer(text):
            indent, language, body = match.groups()
            if language in languages:
                line = text.count("\n", 0, match.start()) + 1
                dedented = "".join(
                    part.removeprefix(indent) for part in body.splitlines(keepends=True)
                )
                found.append(Block(f"{page.relative_to(ROOT)}:{line}", language, dedented))
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", page.read_text())


def inline_code() -> Iterator[tuple[str, str]]:
    """Everything in single backticks, with its page."""
    for page in pages():
        for match in re.finditer(r"(?<!`)`([^`\n]+)`(?!`)", prose(page)):
            yield str(page.relative_to(ROOT)), match[1]


def broken_links() -> list[str]:
    """Links that lead to no file, or to no heading of one."""
    found = []
    for page in pages():
        for target in _LINK.findall(prose(page)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            to = (page.parent / name).resolve() if name else page
            if not to.exists() or (anchor and anchor not in _anchors(to)):
                found.append(f"{page.relative_to(ROOT)}: {target}")
    return found


def headings(page: Path) -> list[str]:
    """The headings of a page, with their markup."""
    return _HEADING.findall(prose(page))


def _anchors(page: Path) -> set[str]:
    """Headings as GitHub and MyST make anchors of them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)
    }
