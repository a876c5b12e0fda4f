"""Draws position.svg: python docs/figures/draw.py.

Written as text, without a drawing library, so that the file is the same on every machine.
"""

from pathlib import Path

RANKS = ("#4c78a8", "#d9730d", "#3f8f3c", "#a0568f")
CELL, LEFT, WIDTH = 22, 176, 900
# Numbers of samples as a shuffle might give them: all different, and the same in every drawing.
ORDER = [pow(5, position, 97) for position in range(32)]


def box(x: float, y: float, number: int, color: str) -> str:
    """One sample."""
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="3" fill="{color}"/>'
        f'<text x="{x + CELL / 2 - 1}" y="{y + 14}" text-anchor="middle" font-size="11" '
        f'fill="white">{number}</text>'
    )


def words(x: float, y: float, text: str, anchor: str = "start", color: str = "#333") -> str:
    """One line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{color}">{text}</text>'


def strip(y: float, title: str, legs: list[tuple[int, int, int, str]]) -> str:
    """One run: the order, each sample colored by the data-parallel rank that trains on it.

    Args:
        y: Top of the strip.
        title: What stands to the left of it.
        legs: For each part of the run, between two stops: its first position, its ranks,
            the rows of its global batches, and its name.
    """
    parts = [words(LEFT - 14, y + 15, title, "end")]
    stops = [start for start, *_ in legs[1:]] + [len(ORDER)]
    for (start, ranks, batch, name), stop in zip(legs, stops, strict=True):
        for position in range(start, stop):
            rank = (position - start) % batch // (batch // ranks)
            parts.append(box(LEFT + position * CELL, y, ORDER[position], RANKS[rank]))
        for position in range(start, stop, batch):
            middle = LEFT + (position + batch / 2) * CELL
            parts.append(f'<path d="{bracket(position, batch, y)}" fill="none" stroke="#999"/>')
            if position == start:
                parts.append(words(middle, y + 42, name, "middle", "#666"))
        if start:
            x = LEFT + start * CELL - 1
            parts.append(
                f'<line x1="{x}" x2="{x}" y1="{y - 8}" y2="{y + CELL + 6}" stroke="#d62728" '
                'stroke-width="3"/>'
                + words(
                    x,
                    y - 13,
                    f"killed; its checkpoint holds samples_seen = {start}",
                    "middle",
                    "#d62728",
                )
            )
    return "".join(parts)


def bracket(position: int, batch: int, y: float) -> str:
    """The path below a global batch."""
    left, right = LEFT + position * CELL + 1, LEFT + (position + batch) * CELL - 3
    top, bottom = y + CELL + 1, y + CELL + 5
    return f"M{left} {top}V{bottom}H{right}V{top}"


def svg() -> str:
    """The whole figure."""
    parts = [
        words(LEFT, 22, "One shuffled order of samples, the same in every run"),
        strip(40, "never stopped", [(0, 4, 8, "4 ranks, batches of 8")]),
        strip(
            128,
            "another layout",
            [
                (0, 4, 8, "4 ranks, batches of 8"),
                (16, 2, 8, "resumed on 2 ranks with TP 2, batches of 8"),
            ],
        ),
        strip(
            216,
            "another batch size",
            [(0, 4, 8, "4 ranks, batches of 8"), (8, 3, 12, "resumed on 3 ranks, batches of 12")],
        ),
    ]
    x: float = LEFT
    parts.append(words(LEFT - 14, 298, "trained on by", "end"))
    for rank, color in enumerate(RANKS):
        parts.append(
            f'<rect x="{x}" y="286" width="14" height="14" rx="3" fill="{color}"/>'
            + words(x + 20, 298, f"dp_rank {rank}")
        )
        x += 110
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 314" '
        'font-family="sans-serif" font-size="13">'
        '<rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("position.svg").write_text(svg())
