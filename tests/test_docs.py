"""What the pages say exists: options, commands, files, names, messages."""

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from mosaic_config import ConfigError, MosaicConfigManager
from tests.docs_support import commands, messages, python_code
from tests.docs_support.pages import ROOT, blocks, broken_links, headings, inline_code

DOCS = ROOT / "docs"
# Inline code that begins like this is a command.
COMMANDS = ("uv run ", "mosaic-prepare -", "nox -s ", "torchrun -")


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_toml_snippet_is_a_configuration(tmp_path: Path) -> None:
    snippets = blocks("toml")
    assert len(snippets) > 10
    wrong = []
    for snippet in snippets:
        file = tmp_path / "job.toml"
        file.write_text(snippet.text)
        arguments = ["--config-path", str(file)]
        dataset = tomllib.loads(snippet.text).get("mosaic_dataloader", {}).get("dataset", {})
        if not dataset.keys() & {"streams", "remote", "local"}:
            # A part of a configuration, which the page's reader has the data for.
            arguments += ["--mosaic_dataloader.dataset.local", "data"]
        try:
            MosaicConfigManager().parse_args(arguments)
        except ConfigError as error:
            wrong.append(f"{snippet.place}: {error}")
    assert wrong == []


def test_every_python_snippet_names_only_what_there_is() -> None:
    snippets = blocks("python")
    assert len(snippets) > 5
    wrong = [
        f"{snippet.place}: {problem}"
        for snippet in snippets
        for problem in python_code.problems(snippet.text)
    ]
    assert wrong == []


def test_every_command_names_only_options_sessions_and_files_that_there_are() -> None:
    written = [
        (block.place, command)
        for block in blocks("", "bash", "sh", "console")
        for command in commands.commands_in(block.text)
    ]
    for place, code in inline_code():
        if code.startswith(COMMANDS):
            written += [(place, command) for command in commands.commands_in(code)]
        elif re.match(r"--\w+\.\w+(\.\w+)*( |$)", code):
            written.append((place, ["apps/train", *code.split()]))
    assert len(written) > 30
    wrong = [
        f"{place}: {problem}"
        for place, command in written
        for problem in commands.problems(command)
    ]
    assert wrong == []


def test_every_link_leads_somewhere() -> None:
    assert broken_links() == []


def test_every_message_in_troubleshooting_is_one_that_the_sources_give() -> None:
    quoted = [h.strip("`") for h in headings(DOCS / "troubleshooting.md") if h.startswith("`")]
    assert len(quoted) > 15
    assert [message for message in quoted if not messages.is_message(message)] == []


def test_the_reference_of_the_configuration_has_every_key_with_its_text() -> None:
    reference = load(DOCS / "config_reference.py")
    text = reference.reference()
    count = 0
    for where, cls in reference.mosaic_tables():
        docs = reference.field_docs(cls)
        for key in reference.keys_of(cls):
            assert docs.get(key), f"[{'.'.join(where)}] {key} has no docstring"
            count += 1
    nested = len(list(reference.mosaic_tables())) - len(
        [where for where, _ in reference.mosaic_tables() if len(where) == 1]
    )
    assert len(re.findall(r"^- `\w+` \(.+\): \S", text, re.M)) == count - nested
    assert reference.PAGE.read_text() == reference.page(), "run python docs/config_reference.py"


def test_the_index_lists_each_page_once() -> None:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), re.M | re.S)
    listed = re.findall(r"^\w+$", "\n".join(trees), re.M)
    assert sorted(listed) == sorted(p.stem for p in DOCS.glob("*.md") if p.stem != "index")


def test_the_reference_of_the_python_api_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text()
    for name in ("mosaic_dataloader", "mosaic_config", "mosaic_trainspec"):
        section = text.split(f"## {name}\n")[1].split("\n## ")[0]
        for public in importlib.import_module(name).__all__:
            # The sections of the configuration have a page of their own.
            documented = re.search(rf":: {public}$", section, re.M)
            assert documented or re.fullmatch(r"Mosaic[A-Z][a-z]+", public), public


def test_the_figure_is_what_its_script_draws() -> None:
    drawn = load(DOCS / "figures" / "draw.py").svg()
    assert (DOCS / "figures" / "position.svg").read_text() == drawn


@pytest.mark.parametrize(
    "command",
    [
        "uv run apps/train --config-path job.toml --training.stepps 3",
        "uv run apps/train --config-path job.toml --nprocs 3",
        "uv run apps/train --config-path apps/train/configs/none.toml",
        "uv run nox -s tets",
        "uv run mosaic-prepare --inptu x",
        "torchrun --nodes 2 apps/train/__main__.py",
        "torchrun --nnodes 2 apps/train/__main__.py --mosaic_dataloader.streams.a.local x",
        "torchrun -m examples.none.train",
    ],
)
def test_a_wrong_command_would_be_found(command: str) -> None:
    (words,) = commands.commands_in(command)
    assert commands.problems(words)
