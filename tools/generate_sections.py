"""Write mosaic-config's sections from the options that mosaic-dataloader defines.

mosaic-config does not import mosaic-dataloader, and its dataclasses have static types: so its
sections are source code, generated and committed.

    python tools/generate_sections.py            write the sections
    python tools/generate_sections.py --check    they are as the options would have them
"""

import argparse
import dataclasses
import inspect
import json
import subprocess
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mosaic_dataloader.options import (
    DatasetSection,
    LoaderSection,
    StreamOptions,
    TokenizerOptions,
)

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "packages/mosaic-config/src/mosaic_config/sections/data.py"

# A class comes after those that its fields hold.
SECTIONS: dict[type, str] = {
    StreamOptions: "MosaicStream",
    DatasetSection: "MosaicDataset",
    LoaderSection: "MosaicDataloader",
    TokenizerOptions: "MosaicTokenizer",
}
# These come first in a table, since everything else is about what they name.
_FIRST = ("name", "streams", "remote", "local", "split")

_HEADER = '''"""The sections of data and tokenizer, generated from mosaic-dataloader's options.

Do not edit: change `mosaic_dataloader.options` or `mosaic_dataloader.order.options`, then run
`python tools/generate_sections.py`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal
'''


def source() -> str:
    """The module as it should stand, formatted."""
    blocks = [_HEADER, *("\n".join(_section(cls, name)) for cls, name in SECTIONS.items())]
    # The project's own formatter, so that the file passes the check of style.
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"],
        input="\n\n".join(blocks) + "\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout


def _section(cls: type, name: str) -> Iterator[str]:
    yield "@dataclass"
    yield f"class {name}:"
    yield textwrap.indent(f'"""{inspect.cleandoc(cls.__doc__ or "")}\n"""', "    ")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in [*(key for key in _FIRST if key in fields), *(k for k in fields if k not in _FIRST)]:
        field = fields[key]
        yield f"\n    {key}: {_type(field)} = {_value(field)}"
        text = field.metadata["text"]
        if len(text) + 10 <= 100:
            yield f'    """{text}"""'
        else:
            lines = textwrap.wrap(text, 96, break_on_hyphens=False)
            yield textwrap.indent("\n".join(['"""', *lines, '"""']), "    ")


def _type(field: "dataclasses.Field[Any]") -> str:
    if choices := field.metadata.get("choices"):
        return f"Literal[{', '.join(map(json.dumps, choices))}]"
    return _spelled(field.type)


def _spelled(annotation: Any) -> str:
    """A type as source code, with sections for the options that they are generated from."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType:
        return " | ".join(map(_spelled, inner))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(_spelled, inner))}]"
    if annotation is type(None):
        return "None"
    if annotation in SECTIONS:
        return SECTIONS[annotation]
    return str(annotation.__name__)


def _value(field: "dataclasses.Field[Any]") -> str:
    limits = {key: field.metadata.get(key) for key in ("least", "above", "most")}
    limits = {key: limit for key, limit in limits.items() if limit is not None}
    if field.default_factory is not dataclasses.MISSING:
        return f"field(default_factory={_spelled(field.default_factory)})"
    default = json.dumps(field.default) if isinstance(field.default, str) else repr(field.default)
    return f"field(default={default}, metadata={json.dumps(limits)})" if limits else default


def main(arguments: list[str]) -> int:
    """Write the sections, or compare them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    check = parser.parse_args(arguments).check
    text = source()
    if TARGET.is_file() and TARGET.read_text() == text:
        return 0
    if check:
        print(
            f"{TARGET.relative_to(ROOT)} does not agree with mosaic-dataloader's options; run "
            "python tools/generate_sections.py and commit what it writes",
            file=sys.stderr,
        )
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
