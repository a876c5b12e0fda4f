"""Write mosaic-config's sections from the options of mosaic-dataloader and mosaic-prepare.

mosaic-config imports neither of them, and its dataclasses have static types: so its sections are
source code, generated and committed.

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mosaic_dataloader.options import (
    DatasetSection,
    LoaderSection,
    StreamOptions,
    TokenizerOptions,
)
from mosaic_prepare import PrepareOptions

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "packages/mosaic-config/src/mosaic_config/sections.py"

# A class comes after those that its fields hold.
SECTIONS: dict[type, str] = {
    StreamOptions: "MosaicStream",
    DatasetSection: "MosaicDataset",
    LoaderSection: "MosaicDataloader",
    TokenizerOptions: "MosaicTokenizer",
    PrepareOptions: "MosaicPrepare",
}
# Options that have no key in their section, and why.
LEFT_OUT: dict[tuple[type, str], str] = {
    (PrepareOptions, "tokenizer"): "it is [mosaic_tokenizer] name, with which the rows are read",
    (PrepareOptions, "tokenizer_kwargs"): "they are [mosaic_tokenizer.kwargs]",
}
# Texts of options that take their value from another section when they are left out.
TEXTS: dict[tuple[type, str], str] = {
    (PrepareOptions, "seq_len"): (
        'Training sequence length in tokens, for form = "rows". None: training.seq_len.'
    ),
    (PrepareOptions, "train_tokenizer"): (
        "Directory for a byte-level BPE tokenizer that is trained on the input. None: tokenize "
        "with mosaic_tokenizer.name."
    ),
}
# These come first in a table, since everything else is about what they name.
_FIRST = ("name", "streams", "remote", "local", "split")

_HEADER = '''"""The sections, generated from the options of mosaic-dataloader and mosaic-prepare.

Do not edit: change `mosaic_dataloader.options`, `mosaic_dataloader.order.options` or
`mosaic_prepare.options`, then run `python tools/generate_sections.py`.
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
    doc = inspect.cleandoc(cls.__doc__ or "").partition("\n\nAttributes:")[0]
    yield textwrap.indent(f'"""{doc}\n"""', "    ")
    fields = {f.name: f for f in dataclasses.fields(cls) if (cls, f.name) not in LEFT_OUT}
    for key in [*(key for key in _FIRST if key in fields), *(k for k in fields if k not in _FIRST)]:
        field = fields[key]
        yield f"\n    {key}: {_type(field)} = {_value(field)}"
        text = TEXTS.get((cls, key)) or str(field.metadata["text"])
        text += " None: nothing is prepared." if _is_required(field) else ""
        text += ' A number of bytes, or text such as "64mb".' if _is_size(field) else ""
        if len(text) + 10 <= 100:
            yield f'    """{text}"""'
        else:
            lines = textwrap.wrap(text, 96, break_on_hyphens=False)
            yield textwrap.indent("\n".join(['"""', *lines, '"""']), "    ")


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    """Whether Python needs it; in TOML a table may be left out, and with it all of its keys."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _is_size(field: "dataclasses.Field[Any]") -> bool:
    """Whether it is a number of bytes, for which TOML takes text such as "64mb" as well."""
    return field.type is int and field.name.endswith("_bytes")


def _type(field: "dataclasses.Field[Any]") -> str:
    if choices := field.metadata.get("choices"):
        return f"Literal[{', '.join(map(json.dumps, choices))}]"
    if _is_size(field):
        return "int | str"
    return _spelled(field.type) + (" | None" if _is_required(field) else "")


def _spelled(annotation: Any) -> str:
    """A type as source code, with sections for the options that they are generated from."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is types.UnionType:
        return " | ".join(_spelled(arm) for arm in inner if arm is not Path)
    if origin is not None:
        # What TOML has for Python's abstract collections.
        name = {Sequence: "list", Mapping: "dict"}.get(origin, origin.__name__)
        return f"{name}[{', '.join(map(_spelled, inner))}]"
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
    if isinstance(field.default, tuple):
        return f"field(default_factory=lambda: {json.dumps(field.default)})"
    default: Any = None if _is_required(field) else field.default
    default = f"{default >> 20}mb" if _is_size(field) else default
    shown = json.dumps(default) if isinstance(default, str) else repr(default)
    return f"field(default={shown}, metadata={json.dumps(limits)})" if limits else shown


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
            f"{TARGET.relative_to(ROOT)} does not agree with the options of mosaic-dataloader and "
            "mosaic-prepare; run "
            "python tools/generate_sections.py and commit what it writes",
            file=sys.stderr,
        )
        return 1
    TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
