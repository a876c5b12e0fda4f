"""No tracked file names a place that exists on one machine or in one network only.

Looks for absolute paths below home and work folders, and for the addresses of
package indexes, which people reach through mirrors of their own. On pages (*.md),
also looks for phrases that are not plain English or have misled readers.

    python tools/check_text.py
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Written so that this file does not match itself.
_FORBIDDEN = {
    "an absolute path of one machine": re.compile(r"(?<![\w.~/$}-])/(?:home|root|Users|work)/\w"),
    # No index is named here either: they are known by their options and by how their paths look.
    "a package index": re.compile(
        r"(?i:index[-_]?url|default-index|find-links)[\"']?\s*[= ]\s*[\"']?https?:/{2}"
        r"|https?:/{2}[^\s\"'<>]+/simple(?![\w-])"
        r"|https?:/{2}[^\s\"'<>]+/packages/[0-9a-f]{2}/"
        r"|/whl/(?:cpu|cu\d+)\b"
    ),
}

# What misleads on a page, and what to write instead.
_MISLEADING = {
    re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE): instead
    for phrase, instead in {
        r"(?:go|goes|going|gone|went) on (?:again|as|at|exactly|from|when|where|with)"
        r"|gone on": "resumes, continues",
        r"anew": "again, restarts",
        r"(?:is|are|be|been|was|were) told": "is reported",
        r"for ever": "forever, without end",
        r"hindmost": "slowest, last",
        r"lest": "so that ... not",
        r"meanwhile": "in the background, while ...",
        r"is none": "is missing, is not a ...",
        r"of all others": "of the others",
        r"sees? to it": "makes sure",
        r"know no|knows no": "do not know, do not depend on",
        r"the whole (?:checkpoint|file|shard)|last whole": "complete",
    }.items()
}


def findings(text: str, page: bool = False) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, what is wrong) for each line that may not be.

    Args:
        text: The text of a file.
        page: Whether it is prose, in which misleading phrases are looked for as well.
    """
    for number, line in enumerate(text.splitlines(), start=1):
        for what, pattern in _FORBIDDEN.items():
            if match := pattern.search(line):
                yield number, f"names {what} ({match.group()})"
        if not page:
            continue
        for pattern, instead in _MISLEADING.items():
            if match := pattern.search(line):
                yield number, f'says "{match.group()}"; write plain English, e.g. {instead}'


def main() -> int:
    """Check every text file known to git; 1 and a line for each finding if there are any."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    bad = False
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        # The lock of the working tree is completed by uv; the committed one has its own check.
        if name == "uv.lock" or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a binary file
            continue
        for number, what in findings(text, page=path.suffix == ".md"):
            bad = True
            print(f"{name}:{number}: {what}", file=sys.stderr)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
