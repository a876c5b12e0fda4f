"""What is wrong with Python code in a page, without running it."""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Iterator
from typing import Any

# Of the examples' own environment.
_ELSEWHERE = {"accelerate", "lightning"}


def problems(code: str) -> Iterator[str]:
    """Names that cannot be imported, keywords that are not taken, attributes that are not there."""
    tree = ast.parse(code)
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if not _is_there(alias.name):
                    yield f"no module {alias.name}"
        elif isinstance(node, ast.ImportFrom) and _is_there(node.module or ""):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"{node.module} has no {alias.name}"
                elif str(node.module).startswith(("mosaic_", "streaming")):
                    names[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module not in _ELSEWHERE:
            yield f"no module {node.module}"
    yield from _keywords(tree, names)
    yield from _attributes(tree, names)


def _is_there(module: str) -> bool:
    top = module.split(".")[0]
    return importlib.util.find_spec(top) is not None or top in _ELSEWHERE


def _keywords(tree: ast.AST, names: dict[str, Any]) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id not in names:
            continue
        parameters = inspect.signature(names[node.func.id]).parameters.values()
        if any(p.kind is p.VAR_KEYWORD and "mosaic" not in str(p) for p in parameters):
            known = None
        else:
            known = {p.name for p in parameters}
        for keyword in node.keywords:
            if known is not None and keyword.arg is not None and keyword.arg not in known:
                yield f"{node.func.id} takes no {keyword.arg}"


def _attributes(tree: ast.AST, names: dict[str, Any]) -> Iterator[str]:
    """Attributes of what our own classes and functions return."""
    kinds: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            called = node.value.func
            if isinstance(called, ast.Name) and called.id in names:
                made = names[called.id]
                returned = made if isinstance(made, type) else made.__annotations__.get("return")
                for target in node.targets:
                    if isinstance(target, ast.Name) and isinstance(returned, type):
                        kinds[target.id] = returned
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            kind = kinds.get(node.value.id)
            known = getattr(kind, "__dataclass_fields__", {})
            if kind is not None and not hasattr(kind, node.attr) and node.attr not in known:
                yield f"{kind.__name__} has no {node.attr}"
