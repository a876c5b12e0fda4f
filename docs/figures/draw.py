"""Draws position.svg: python docs/figures/draw.py.

Written as text, without a drawing library, so that the file is the same on every machine.
"""

from pathlib import Path

RANKS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
CELL, LEFT, WIDTH = 26, 150, 800


def box(x: float, y: float, number: int, color: str) -> str:
    """One sample."""
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 2}" height="{CELL - 2}" rx="3" fill="{color}"/>'
        f'<text x="{x + CELL / 2 - 1}" y="{y + 16}" text-anchor="middle" fill="white">'
        f"{number}</text>"
    )


def words(x: float, y: float, text: str, anchor: str = "start", color: str = "#333") -> str:
    """One line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{color}">{text}</text>'


def strip(y: float, legs: list[tuple[int, int, int]]) -> str:
    """The order, its samples coloured by the rank that reads them.

    Args:
        y: Top of the strip.
        legs: First and last sample of each part of the run, and the ranks that it has.
    """
    parts = []
    for first, stop, ranks in legs:
        rows = 8 // ranks
        for number in range(first, stop):
            rank = number % 8 // rows
            parts.append(box(LEFT + number * CELL, y, number, RANKS[rank]))
    return "".join(parts)


def svg() -> str:
    """The whole figure."""
    end = LEFT + 24 * CELL
    parts = [
        words(LEFT, 24, "the order: one list of samples, cut into global batches of 8"),
        *(
            f'<line x1="{LEFT + k * 8 * CELL - 1}" x2="{LEFT + k * 8 * CELL - 1}" y1="34" '
            'y2="148" stroke="#999" stroke-dasharray="4 3"/>'
            for k in range(4)
        ),
        *(
            words(LEFT + (8 * k + 4) * CELL, 48, f"batch {k + 1}", "middle", "#777")
            for k in range(3)
        ),
        words(LEFT - 12, 76, "4 ranks", "end"),
        strip(58, [(0, 24, 4)]),
        words(LEFT - 12, 120, "stopped after 16,", "end"),
        words(LEFT - 12, 138, "goes on with 2 ranks", "end"),
        strip(112, [(0, 16, 4), (16, 24, 2)]),
        f'<line x1="{LEFT + 16 * CELL - 1}" x2="{LEFT + 16 * CELL - 1}" y1="104" y2="146" '
        'stroke="#d62728" stroke-width="3"/>',
        words(LEFT + 16 * CELL, 168, "the checkpoint holds samples_seen = 16", "middle", "#d62728"),
    ]
    x: float = LEFT
    for rank, color in enumerate(RANKS):
        parts.append(
            f'<rect x="{x}" y="190" width="14" height="14" rx="3" fill="{color}"/>'
            + words(x + 20, 202, f"dp_rank {rank}")
        )
        x += 110
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(WIDTH, end + 20)} 220" '
        'font-family="sans-serif" font-size="13">'
        '<rect width="100%" height="100%" fill="white"/>' + "\n".join(parts) + "</svg>\n"
    )


if __name__ == "__main__":
    Path(__file__).with_name("position.svg").write_text(svg())
