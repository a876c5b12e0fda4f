"""What to say about a command line option that does not exist."""

import difflib

from mosaic_config.foreign import reason_for_key
from mosaic_config.schema import Path, keys_of, tables
from mosaic_config.suggest import suggest


def unknown_option(root: type, flag: str, section: Path, key: str, *, written: Path) -> str:
    """Return the sentence for an unknown option, with the nearest that exists.

    Args:
        root: The dataclass of the whole configuration.
        flag: The option as it was written.
        section: The table that it names, with `<name>` for the user's own names.
        key: Its last part, with underscores.
        written: The table as the user wrote it, for the suggestion.
    """
    what = f"unknown option {flag}"
    if (reason := reason_for_key(section, key)) is not None:
        return f"{flag} {reason}"
    by_path = dict(tables(root))
    if section not in by_path:
        names = {".".join(path): path for path in by_path if path}
        near = difflib.get_close_matches(".".join(section), names, n=1)
        section = written = names[near[0]] if near else ()
        if key in keys_of(by_path[section]) and section:
            return f"{what}; did you mean {_spell(section, key)}?"
    cls = by_path[section]
    negated = key.startswith("no_") and key not in keys_of(cls)
    stem = key.removeprefix("no_") if negated else key
    prefix = "no-" if negated else ""
    found = suggest(root, cls, section, stem, is_table=None if not section else False)
    if section and found.here is not None:
        return f"{what}; did you mean {_spell(written, prefix + found.here)}?"
    if found.elsewhere:
        shown = [_spell(path, prefix + stem) for path in found.elsewhere[:3]]
        return f"{what}; did you mean {' or '.join(shown)}?"
    return f"{what}; --help lists all options"


def _spell(section: Path, key: str) -> str:
    return f"--{'.'.join((*section, key))}"
