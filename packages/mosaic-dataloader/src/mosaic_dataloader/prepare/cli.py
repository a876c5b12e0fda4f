"""The command `mosaic-prepare`."""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.options import FORMS, INPUT_FORMATS, PrepareOptions
from mosaic_dataloader.prepare.report import PrepareReport
from mosaic_dataloader.prepare.run import prepare
from mosaic_dataloader.sizes import parse_bytes

_EXAMPLES = """\
examples:
  mosaic-prepare --input 'corpus/**/*.jsonl.gz' --output data/web \\
      --tokenizer HuggingFaceTB/SmolLM-1.7B --seq-len 2048 --compression zstd
  mosaic-prepare --input 's3://bucket/raw/*.parquet' --output s3://bucket/tokens \\
      --tokenizer ./tokenizer --seq-len 8192 --split-validation 0.01
  mosaic-prepare --dataset allenai/c4 --dataset-config en --output data/c4 \\
      --train-tokenizer ./tokenizer --vocab-size 32768 --form documents

A run that was interrupted is gone on from when the same command is run again.
"""


def command() -> None:
    """Run the command as a process of its own."""
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
        The exit code: 0, 2 for what the user can mend, 130 when interrupted.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        report = prepare(_options(_parser().parse_args(argv)))
    except MosaicDataError as error:
        print(f"mosaic-prepare: {str(error).removeprefix('prepare: ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mosaic-prepare: interrupted; run the same command to go on", file=sys.stderr)
        return 130
    print(_how_to_use(report))
    return 0


def _options(given: argparse.Namespace) -> PrepareOptions:
    values: dict[str, Any] = {key: value for key, value in vars(given).items() if value is not None}
    dataset = values.pop("dataset", None)
    if dataset is not None:
        values |= {"input": dataset, "input_format": "dataset"}
    for name in ("shard_bytes", "max_document_bytes"):
        if name in values:
            values[name] = parse_bytes(name, values[name])
    for name in ("tokenizer_kwargs", "dataset_kwargs"):
        if name in values:
            values[name] = _mapping(name, values[name])
    for name in ("document_separator", "column_separator"):
        if name in values:
            # Shells make line ends hard to write.
            values[name] = values[name].replace("\\n", "\n").replace("\\t", "\t")
    return PrepareOptions(**values)


def _mapping(name: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise MosaicDataError(
            f'{name} = {text!r} is no JSON object; write for example \'{{"revision": "main"}}\''
        )
    return value


def _how_to_use(report: PrepareReport) -> str:
    """The sections of a training configuration that read the data."""
    output = str(report.output).rstrip("/")
    place = "remote" if "://" in output else "local"
    # Its own name, so that several can be put together; what is no bare key in TOML is replaced.
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", os.path.basename(output)) or "data"
    tables = []
    for split in report.splits:
        loader = "mosaic_validation_dataloader" if split == "validation" else "mosaic_dataloader"
        lines = [f"[{loader}.dataset.streams.{name}]", f'{place} = "{output}"']
        tables.append([*lines, *([f'split = "{split}"'] if split else [])])
    if report.tokenizer:
        tables.append(["[mosaic_tokenizer]", f'name = "{report.tokenizer}"'])
    return "\n\n".join("\n".join(lines) for lines in tables)


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the options\n")


def _parser() -> argparse.ArgumentParser:
    # Options have the names of `PrepareOptions`, which explains them. Those without a value here
    # are left to its defaults.
    parser = _Parser(
        prog="mosaic-prepare",
        description="Turn text, JSON Lines, Parquet or a Hugging Face data set into MDS shards.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=None,
        allow_abbrev=False,
    )
    _add_input(parser.add_argument_group("input"))
    _add_tokenizer(parser.add_argument_group("tokenizer"))
    _add_output(parser.add_argument_group("output"))
    return parser


def _add_input(group: Any) -> None:
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        nargs="+",
        metavar="GLOB",
        help='files: globs in quotes ("**" goes into subdirectories), fsspec URLs, or '
        '"python-stdlib"; may be compressed (.gz, .bz2, .xz, .zst)',
    )
    source.add_argument("--dataset", metavar="NAME", help="a Hugging Face data set or directory")
    group.add_argument(
        "--input-format",
        choices=[name for name in INPUT_FORMATS if name != "dataset"],
        help="format of the files; by default by their names",
    )
    group.add_argument(
        "--text-columns", nargs="+", metavar="COLUMN", help="columns of a document (text)"
    )
    group.add_argument(
        "--column-separator", metavar="TEXT", help=r"put between several columns (\n\n)"
    )
    group.add_argument(
        "--document-separator",
        metavar="TEXT",
        help=r"what lies between the documents of a text file, as \n\n; by default a file is one",
    )
    group.add_argument("--dataset-config", metavar="NAME", help="configuration of the data set")
    group.add_argument("--dataset-split", metavar="NAME", help="split of the data set (train)")
    group.add_argument(
        "--dataset-kwargs", metavar="JSON", help="further keywords for datasets.load_dataset"
    )
    group.add_argument(
        "--bad-input",
        choices=["error", "skip"],
        help="at what is no document (not UTF-8, broken JSON, …): stop, or leave it out and count",
    )
    group.add_argument(
        "--max-document-bytes", metavar="SIZE", help="largest document that is taken (64mb)"
    )


def _add_tokenizer(group: Any) -> None:
    tokenizer = group.add_mutually_exclusive_group()
    tokenizer.add_argument("--tokenizer", metavar="NAME", help="Hugging Face name or directory")
    tokenizer.add_argument(
        "--train-tokenizer", metavar="DIR", help="train a byte-level BPE tokenizer and put it here"
    )
    group.add_argument("--vocab-size", type=int, help="entries of a trained tokenizer (2048)")
    group.add_argument(
        "--tokenizer-kwargs", metavar="JSON", help="keywords for AutoTokenizer.from_pretrained"
    )
    group.add_argument(
        "--add-bos", action="store_true", help="begin each document with the begin-of-text token"
    )
    group.add_argument(
        "--special-tokens",
        choices=["text", "parse"],
        help="text that spells a special token is text (default), or becomes that token",
    )


def _add_output(group: Any) -> None:
    group.add_argument(
        "--output", required=True, metavar="DIR|URL", help="directory or object store for the data"
    )
    group.add_argument(
        "--form",
        choices=FORMS,
        help="rows of seq_len + 1 tokens, documents joined by the end-of-text token (default); a "
        "row of tokens per document; or text",
    )
    group.add_argument("--seq-len", type=int, metavar="N", help="training sequence length (rows)")
    group.add_argument(
        "--split-validation",
        type=float,
        metavar="SHARE",
        help="share of documents for validation/, the others for train/",
    )
    group.add_argument("--compression", metavar="NAME", help="zstd, zstd:7, gz, br, bz2, snappy")
    group.add_argument("--hashes", nargs="+", metavar="NAME", help="hashes of the shards (xxh64)")
    group.add_argument("--shard-bytes", metavar="SIZE", help="largest shard, unpacked (64mb)")
    group.add_argument(
        "--processes", type=int, metavar="N", help="processes that tokenize (one for each core)"
    )
    group.add_argument(
        "--work-dir", metavar="DIR", help="where shards lie on their way to a URL, and what is done"
    )


if __name__ == "__main__":
    command()
