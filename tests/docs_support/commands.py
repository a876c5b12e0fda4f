"""What is wrong with a command in a page: its programs, options and files."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from functools import cache

from torch.distributed.run import get_args_parser

from mosaic_config import MosaicJobConfig
from mosaic_config.schema import keys_of, named_value, names_hidden, tables, tables_in_list
from mosaic_dataloader.inspect.cli import _parser as inspect_parser
from mosaic_prepare.cli import _parser
from mosaic_train.cli import USAGE
from tests.docs_support.pages import ROOT

_FOLDERS = ("apps/", "benchmarks/", "docs/", "examples/", "packages/", "tests/", "tools/")
_OPTION = re.compile(r"--?[A-Za-z]")
# uv's own options that take a value.
_UV_VALUES = {"--extra", "--group", "--package", "--python", "--with"}


def commands_in(text: str) -> Iterator[list[str]]:
    """The commands of a block, as words; comments and what is no shell syntax are left out."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue  # a quote that does not end: no command
        command: list[str] = []
        for word in [*words, "&&"]:
            if word not in ("&&", "||", ";", "|"):
                command.append(word)
            elif command:
                yield command
                command = []


def problems(command: list[str]) -> list[str]:
    """What does not exist of all that a command names."""
    found = [
        f"no file {word}"
        for word in command
        if word.startswith(_FOLDERS)
        and not re.search(r"[*…<>$]|NAME", word)
        and not (ROOT / word.split("::")[0]).exists()
    ]
    words = _without_uv(command)
    if words and words[0] == "sbatch":
        return found
    return found + [
        f"no {what} {name}"
        for what, name, known in _named(words)
        if not known and "…" not in name and "..." not in name
    ]


def _without_uv(words: list[str]) -> list[str]:
    """A command without the environment and `uv run` before it."""
    words = [*words]
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if words[:2] != ["uv", "run"]:
        return words
    words = words[2:]
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in _UV_VALUES:
            words.pop(0)
    return words


def _named(words: list[str]) -> Iterator[tuple[str, str, bool]]:
    """What a command names: kind, name, whether there is such a thing."""
    if not words:
        return
    program, rest = words[0], words[1:]
    if program == "nox":
        yield from _nox(rest)
    elif program == "mosaic-prepare":
        known = set(_parser()._option_string_actions)
        for option in _options(rest):
            yield "option of mosaic-prepare", option, option in known
    elif program == "mosaic-inspect":
        known = set(inspect_parser()._option_string_actions)
        for option in _options(rest):
            yield "option of mosaic-inspect", option, option in known
    elif program == "torchrun":
        yield from _torchrun(rest)
    elif program == "python" and rest[:1] == ["-m"] and rest[1] != "pip":
        module = rest[1]
        yield "module", module, importlib.util.find_spec(module.split(".")[0]) is not None
    elif program == "apps/train" or "--config-path" in rest:
        yield from _app(rest)


def _nox(rest: list[str]) -> Iterator[tuple[str, str, bool]]:
    chosen = False
    for word in rest:
        if word == "--":
            return
        if word.startswith("-"):
            chosen = word in ("-s", "--session")
        elif chosen:
            yield "session", word, word in sessions() or word == "NAME"


def _torchrun(rest: list[str]) -> Iterator[tuple[str, str, bool]]:
    known = set(get_args_parser()._option_string_actions)
    for number, word in enumerate(rest):
        if word in ("-m", "--module"):
            module = rest[number + 1]
            yield "module", module, (ROOT / (module.replace(".", "/") + ".py")).exists()
            return
        if word.endswith(".py"):
            if word.startswith("apps/train"):
                yield from _app(rest[number + 1 :])
            return
        if _OPTION.match(word):
            option = word.partition("=")[0]
            yield "option of torchrun", option, option in known


def _app(rest: list[str]) -> Iterator[tuple[str, str, bool]]:
    own = {*re.findall(r"--[\w-]+(?![\w.-])", USAGE), "--help"}
    for option in _options(rest):
        yield "option of apps/train", option, option in own or is_key(option.removeprefix("--"))


def _options(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if _OPTION.match(word)]


def is_key(dotted: str) -> bool:
    """Whether `section.key` is one of the configuration's, with the user's own names in it."""
    if dotted == "section.key":
        return True  # stands for any
    path = tuple(part.replace("-", "_").removeprefix("no_") for part in dotted.split("."))
    hidden = names_hidden(MosaicJobConfig, path)
    # Below a table of free values any name is one, and below a list of such tables.
    above = [_leaves()[hidden[:n]] for n in range(1, len(hidden)) if hidden[:n] in _leaves()]
    return hidden in _leaves() or any(
        named_value(each) is not None or tables_in_list(each) for each in above
    )


@cache
def _leaves() -> dict[tuple[str, ...], object]:
    return {
        (*p, key): tp
        for p, cls in tables(MosaicJobConfig).items()
        for key, tp in keys_of(cls).items()
    }


@cache
def sessions() -> frozenset[str]:
    """The sessions of noxfile.py, without importing it."""
    functions = (
        node
        for node in ast.parse((ROOT / "noxfile.py").read_text()).body
        if isinstance(node, ast.FunctionDef)
    )
    return frozenset(
        f.name for f in functions if any("nox.session" in ast.unparse(d) for d in f.decorator_list)
    )
