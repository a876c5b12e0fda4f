"""Write the reference in `configuration.md` from mosaic-config's dataclasses.

    python docs/config_reference.py

A test compares, so that the committed page is always that of the dataclasses.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mosaic_config import MosaicJobConfig
from mosaic_config.schema import Path as TablePath
from mosaic_config.schema import describe, keys_of, named_value, place, show, table_in, tables

PAGE = Path(__file__).parent / "configuration.md"
MARK = "<!-- Written by config_reference.py from here on. -->\n\n"


def page() -> str:
    """The page as it should be: what precedes the mark, and the reference."""
    return f"{PAGE.read_text().partition(MARK)[0]}{MARK}{reference()}\n"


def reference() -> str:
    """The whole reference as Markdown, a section for each table."""
    return "\n\n".join(block for where, cls in mosaic_tables() for block in _section(where, cls))


def mosaic_tables() -> Iterator[tuple[TablePath, type]]:
    """The tables that mosaic-config adds to TorchTitan's.

    Validation's are the same as training's and are left out.
    """
    for where, cls in tables(MosaicJobConfig).items():
        if where and where[0].startswith("mosaic_") and where[0] != "mosaic_validation_dataloader":
            yield where, cls


def field_docs(cls: type) -> dict[str, str]:
    """The string below each field of a dataclass, as one paragraph per blank line."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[field.target.id] = inspect.cleandoc(str(below.value.value))
    return found


def _section(where: TablePath, cls: type) -> Iterator[str]:
    yield f"## `{place(where)}`"
    yield inspect.cleandoc(cls.__doc__ or "")
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        annotation = keys_of(cls)[field.name]
        if table_in(annotation) or table_in(named_value(annotation)):
            continue  # it has a section of its own
        text = re.sub(r"\s*\n\s*\n\s*", "\n\n", docs[field.name]).replace("\n\n", "\n\n  ")
        yield f"- `{field.name}` ({describe(annotation)}; {_default(field)}): {_escaped(text)}"


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
        return f"default: `{show(default)}`" if default else "default: empty"
    return "no default" if field.default is None else f"default: `{show(field.default)}`"


def _escaped(text: str) -> str:
    """A docstring's text, in which tables in brackets are no links."""
    text = re.sub(r"(?<!`)(\[[a-z_]+(?:\.[A-Za-z_<>]+)*\])", r"`\1`", text)
    return "\n  ".join(line.strip() for line in text.splitlines())


if __name__ == "__main__":
    PAGE.write_text(page())
