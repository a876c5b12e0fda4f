"""The command `mosaic-prepare`."""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.arguments import CommandParser, as_flags
from mosaic_dataloader.util.secrets import redacted
from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.run import PrepareReport, finish, prepare, prepare_task

logger = logging.getLogger("mosaic_prepare")

_EXAMPLES = """\
examples:
  mosaic-prepare --input 'corpus/**/*.jsonl.gz' --output data/web \\
      --tokenizer HuggingFaceTB/SmolLM-1.7B --seq-len 2048 --compression zstd
  mosaic-prepare --input 's3://bucket/raw/*.parquet' --output s3://bucket/tokens \\
      --tokenizer ./tokenizer --seq-len 8192 --split-validation 0.01 --engine ray
  mosaic-prepare --dataset allenai/c4 --dataset-config en --output data/c4 \\
      --train-tokenizer ./tokenizer --vocab-size 32768 --form documents

A run that was interrupted is resumed when the same command is run again.
"""


def command() -> None:
    """Run the command in its own process."""
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A read from a store that hangs in a thread must not keep the process.
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code: 0, 2 for what the user can correct, 130 when interrupted.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # Not of the stores' libraries, which say where they found credentials.
    logger.setLevel(logging.INFO)
    try:
        report = _run(vars(_parser().parse_args(argv)))
    except MosaicDataError as error:
        names = [field.name for field in fields(PrepareOptions)]
        line = as_flags(str(error).removeprefix("prepare: "), names)
        print(f"mosaic-prepare: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mosaic-prepare: interrupted; run the same command to resume", file=sys.stderr)
        return 130
    if report is not None:
        print(_how_to_use(report))
    return 0


def _run(given: dict[str, Any]) -> PrepareReport | None:
    task, finishes, dataset = given.pop("task"), given.pop("finish"), given.pop("dataset")
    values = {name: value for name, value in given.items() if value is not None}
    if dataset is not None:
        values |= {"input": dataset, "input_format": "dataset"}
    for name in ("tokenizer_kwargs", "dataset_kwargs"):
        if name in values:
            values[name] = _mapping(name, values[name])
    for name in ("document_separator", "column_separator"):
        if name in values:
            # Shells make line ends hard to write.
            values[name] = values[name].replace("\\n", "\n").replace("\\t", "\t")
    options = PrepareOptions(**values)
    # Before the imports of tokenizers and of mosaicml-streaming.
    logger.info(
        "looking for %s; importing libraries takes a while",
        ", ".join(map(redacted, options.inputs)),
    )
    if task is None:
        return finish(options) if finishes else prepare(options)
    match = re.fullmatch(r"(\d+)/(\d+)", task)
    if match is None or finishes:
        raise MosaicDataError(
            f"--task {task!r} is not of the form K/N; write for example --task 3/64 for the third "
            f"of 64 tasks, and run --finish as a separate command when all of them are done"
        )
    prepare_task(options, int(match[1]), int(match[2]))
    return None


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise MosaicDataError(
            f'{name} = {text!r} is not a JSON object; write for example \'{{"revision": "main"}}\''
        )
    return value


def _how_to_use(report: PrepareReport) -> str:
    """The sections of a training configuration that read the data."""
    output = str(report.output).rstrip("/")
    place = "remote" if "://" in output else "local"
    # The output's name, so that several can be put together, as a bare key of TOML.
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", os.path.basename(output)) or "data"
    tables = []
    for split in report.splits:
        loader = "mosaic_validation_dataloader" if split == "validation" else "mosaic_dataloader"
        lines = [f"[{loader}.dataset.streams.{name}]", f"{place} = {_toml(output)}"]
        tables.append([*lines, *([f'split = "{split}"'] if split else [])])
    if report.tokenizer:
        tables.append(["[mosaic_tokenizer]", f"name = {_toml(report.tokenizer)}"])
    return "\n\n".join("\n".join(lines) for lines in tables)


def _toml(text: str) -> str:
    # TOML's escapes are JSON's, and one more character must be escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parser() -> argparse.ArgumentParser:
    """The parser, whose options and texts are those of `PrepareOptions`."""
    parser = CommandParser(
        prog="mosaic-prepare",
        description="Turn documents (text, JSON Lines, Parquet, Arrow, CSV, Hugging Face data "
        "sets) into MDS shards for training.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--dataset", metavar="NAME", help="Hugging Face data set, by name or directory"
    )
    tokenizer = parser.add_mutually_exclusive_group()
    groups: dict[str, Any] = {
        "input": source,
        "tokenizer": tokenizer,
        "train_tokenizer": tokenizer,
    }
    for field in fields(PrepareOptions):
        more: dict[str, Any] = {"metavar": "VALUE"}
        if field.type is bool:
            more = {"action": argparse.BooleanOptionalAction}
        elif "Sequence" in str(field.type):
            more = {"nargs": "+", "metavar": "NAME"}
        elif choices := field.metadata.get("choices"):
            more = {"choices": choices}
        elif field.type in (float, int | None):  # sizes, which are `int`, may have a unit
            more["type"] = float if field.type is float else int
        if field.name == "output":
            more["required"] = True
        flag = f"--{field.name.replace('_', '-')}"
        groups.get(field.name, parser).add_argument(flag, default=None, help=_help(field), **more)
    parser.add_argument(
        "--task",
        metavar="K/N",
        help="prepare only the K-th of N shares of the input, as one task of a job array",
    )
    parser.add_argument(
        "--finish",
        action="store_true",
        help="assemble the data set from what the tasks of a job array have prepared",
    )
    return parser


def _help(field: "Field[Any]") -> str:
    """What `PrepareOptions` says of an option, as it reads on a command line, and its default."""
    # A command line has neither Python's quotes nor Markdown's.
    text = re.sub(r'`"([^`]*)"`|`', r"\1", field.metadata["text"])
    if isinstance(field.default, str | int | float | tuple):
        text += f" (default: {_shown(field.name, field.default)})"
    return text.replace("None: ", "Default: ").replace("%", "%%")


def _shown(name: str, value: Any) -> str:
    """A default as it would be written."""
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("_bytes"):
        return f"{int(value) >> 20}mb"
    return repr(value) if "\n" in str(value) else str(value)


if __name__ == "__main__":
    command()
