"""Finding what a user meant by a key that does not exist."""

import difflib
import itertools
from collections.abc import Iterable

from mosaic_config.schema import Path, keys_of, named_value, table_in, tables
from mosaic_config.unsupported_keys import reason_for_key


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that is spelled most like a word, or None if none is near."""
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(choices), n=1)
    return found[0] if found else None


def suggest(
    root: type, path: Path, key: str, *, is_table: bool | None
) -> tuple[str | None, list[Path]]:
    """Look for an unknown key's nearest neighbours.

    Args:
        root: The dataclass of the configuration.
        path: The table that holds the key, with `<name>` for the user's own names.
        key: The unknown key.
        is_table: Whether the key holds a table, so that tables are proposed for it first (and
            plain keys otherwise); None if that is not known.

    Returns:
        The key of the same table that is spelled most alike, if one is near enough; and the tables
        in which this very key exists, those nearest to its place first.
    """

    def candidates(cls: type) -> list[str]:
        return [k for k, tp in keys_of(cls).items() if is_table in (None, _holds_table(tp))]

    def distance(other: Path) -> int:
        shared = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(path, other, strict=False)
        )
        return len(path) + len(other) - 2 * len(list(shared))

    by_path = tables(root)
    found = [p for p, cls in by_path.items() if p != path and key in candidates(cls)]
    found.sort(key=distance)
    # A table of the same section is surely meant; the others are only mentioned.
    same = [p for p in found if path and p and p[0] == path[0]]
    if same:
        return None, [p for p in same if distance(p) == distance(same[0])]
    table = by_path[path]
    return nearest(key, candidates(table)) or nearest(key, keys_of(table)), found


def _holds_table(annotation: object) -> bool:
    return table_in(annotation) is not None or named_value(annotation) is not None


def unknown_option(root: type, flag: str, section: Path, key: str, *, written: Path) -> str:
    """Return the sentence for an unknown option, with the nearest that exists.

    Args:
        root: The dataclass of the configuration.
        flag: The option as it was written.
        section: The table that it names, with `<name>` for the user's own names.
        key: Its last part, with underscores.
        written: The table as the user wrote it, for the suggestion.
    """
    what = f"unknown option {flag}"
    if (reason := reason_for_key(section, key)) is not None:
        return f"{flag} {reason}"
    by_path = tables(root)
    if section not in by_path:
        names = {".".join(path): path for path in by_path if path}
        near = difflib.get_close_matches(".".join(section), names, n=1)
        section = written = names[near[0]] if near else ()
        if key in keys_of(by_path[section]) and section:
            return f"{what}; did you mean {_spell(section, key)}?"
    negated = key.startswith("no_") and key not in keys_of(by_path[section])
    stem = key.removeprefix("no_") if negated else key
    prefix = "no-" if negated else ""
    here, elsewhere = suggest(root, section, stem, is_table=None if not section else False)
    if section and here is not None:
        return f"{what}; did you mean {_spell(written, prefix + here)}?"
    if elsewhere:
        shown = [_spell(path, prefix + stem) for path in elsewhere[:3]]
        return f"{what}; did you mean {' or '.join(shown)}?"
    return f"{what}; --help lists all options"


def _spell(section: Path, key: str) -> str:
    return f"--{'.'.join((*section, key))}"
