"""`mosaic-inspect`: what an MDS data set holds, on this machine or in an object store."""

import argparse
import logging
import os
import sys
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.arguments import CommandParser, as_flags

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Longer than any sample: none is cut.
_NO_END = 1 << 40
# Samples of a stream whose lengths are read, and bytes of shards that are fetched for that.
_SAMPLES, _FETCHED_BYTES = 1000, 256 << 20
# Tokens of a sample that are printed: a document may be a book.
_SHOWN = 512
# Folders below the given one in which streams are looked for.
_DEPTH = 3
_HEADER = ("stream", "shards", "samples", "tokens", "size", "median", "90 %", "longest")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line without the program; by default this process's.

    Returns:
        0 on success, 2 for a mistake, which is reported in one line on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        _inspect(arguments)
    except MosaicDataError as error:
        line = as_flags(" ".join(str(error).split()), vars(arguments))
        print(f"mosaic-inspect: error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def command() -> None:
    """Entry point of the command."""
    # The loader's warnings are about training, but for those about a store that does not answer.
    logging.getLogger("mosaic_dataloader").setLevel(logging.ERROR)
    logging.getLogger("mosaic_dataloader.storage").setLevel(logging.WARNING)
    raise SystemExit(main())


def find_streams(place: str) -> dict[str, dict[str, str]]:
    """Streams of a data set, by name, with the options that `StreamingTextDataset` takes.

    Args:
        place: Address in an object store, a directory with an `index.json`, or one with such
            directories in it.

    Raises:
        MosaicDataError: There is no data set.
    """
    if "://" in place:
        return {place.rstrip("/").rpartition("/")[2] or place: {"remote": place}}
    if not os.path.isdir(place):
        raise MosaicDataError(
            f"{place} is not a directory, nor an address such as s3://BUCKET/PATH"
        )
    root = Path(place)
    if (root / "index.json").is_file():
        return {root.resolve().name or place: {"local": place}}
    found = {
        str(index.parent.relative_to(root)): {"local": str(index.parent)}
        for depth in range(1, _DEPTH + 1)
        for index in sorted(root.glob("*/" * depth + "index.json"))
    }
    if not found:
        raise MosaicDataError(
            f"{place} has no index.json, nor has any directory in it: give the directory of an MDS "
            f"data set"
        )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="mosaic-inspect",
        description="Show what an MDS data set holds: its streams, how long their samples are, and "
        "some of the samples.",
    )
    parser.add_argument(
        "place",
        metavar="REMOTE_OR_DIR",
        help="an address such as s3://BUCKET/PATH, a directory with an index.json, or a directory "
        "with such directories in it",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="directory or Hugging Face name of the tokenizer that decodes tokens, and encodes "
        "text; without one, token ids are shown",
    )
    parser.add_argument(
        "--rows", metavar="N", type=_count, default=4, help="samples of each stream to show (4)"
    )
    parser.add_argument(
        "--stages",
        metavar="TOML",
        help="a mixture that changes, as [[mosaic_dataloader.dataset.stages]] has it: '[{samples = "
        "1000, weights = {web = 0.8, code = 0.2}}, {weights = {code = 1}}]'",
    )
    parser.add_argument(
        "--weights-in",
        choices=("samples", "tokens"),
        default="samples",
        help="what the weights of stages count (samples)",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=_positive,
        help="steps of the planned run: with --step-rows, the mixture is printed with steps, up to "
        "their end; with --plan, how many are looked at (those of one epoch)",
    )
    parser.add_argument(
        "--step-rows",
        metavar="N",
        type=_positive,
        help="rows of one of these steps, over all ranks",
    )
    parser.add_argument(
        "--picture", metavar="FILE", type=Path, help="a PNG file to draw the lengths in"
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="show no samples, but what a run on the data will fetch and what its cache must hold",
    )
    plan = parser.add_argument_group("for --plan")
    plan.add_argument("--ranks", metavar="N", type=_positive, default=1, help="ranks (1)")
    plan.add_argument("--nodes", metavar="N", type=_positive, default=1, help="machines (1)")
    plan.add_argument(
        "--batch-size", metavar="N", type=_positive, default=8, help="rows of a rank in a step (8)"
    )
    plan.add_argument(
        "--pack",
        metavar="TOKENS",
        type=_positive,
        help="join documents into rows of so many tokens; by default each sample is a row",
    )
    plan.add_argument(
        "--shuffle-block-size", metavar="N", type=_positive, help="as in the run's configuration"
    )
    plan.add_argument("--step-time", metavar="SECONDS", type=float, help="of one step")
    plan.add_argument(
        "--bandwidth", metavar="BYTES", help="that a machine gets in a second, such as 500mb"
    )
    parser.add_argument(
        "--token-encoding-type",
        metavar="TYPE",
        default="int64",
        help="type of the token ids in a bytes column (int64)",
    )
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where fetched shards are cached; by default a folder of this user's in the temporary "
        "directory",
    )
    return parser


def _count(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a number, {least} or more; got {text!r}")
    return int(text)


_positive = partial(_count, least=1)


def _inspect(arguments: argparse.Namespace) -> None:
    streams = find_streams(arguments.place)
    stages = _stages(arguments)
    if not arguments.plan and (arguments.steps is None) != (arguments.step_rows is None):
        raise MosaicDataError("--steps and --step-rows belong together: give both, or neither")
    if arguments.ranks % arguments.nodes:
        raise MosaicDataError(
            f"--ranks {arguments.ranks} cannot be shared out equally to --nodes {arguments.nodes}: "
            f"change one of them"
        )

    # Late: `--help` and a mistyped directory need none of it.
    from mosaic_dataloader.dataset import StreamingTextDataset
    from mosaic_dataloader.inspect.forecasts import forecast_lines
    from mosaic_dataloader.inspect.mixture import mixture_tree
    from mosaic_dataloader.inspect.picture import save_lengths
    from mosaic_dataloader.inspect.run import readable_output
    from mosaic_dataloader.inspect.steps import Steps
    from mosaic_dataloader.inspect.tables import aligned
    from mosaic_dataloader.loader import MosaicParallelAwareDataloader
    from mosaic_dataloader.reading.pretrained import load_pretrained

    tokenizer = None
    if arguments.tokenizer:
        try:
            tokenizer = load_pretrained(arguments.tokenizer, {})
        except MosaicDataError as error:
            raise MosaicDataError(
                f"--tokenizer {arguments.tokenizer!r} cannot be loaded ({error})"
            ) from error
    try:
        dataset = StreamingTextDataset(
            tokenizer=tokenizer,
            seq_len=arguments.pack if arguments.plan and arguments.pack else _NO_END,
            streams=streams,
            token_encoding_type=arguments.token_encoding_type,
            cache_dir=arguments.cache_dir,
            stages=stages,
            weights_in=arguments.weights_in,
            packing=arguments.plan and arguments.pack is not None,
            shuffle=arguments.plan,
            shuffle_block_size=arguments.shuffle_block_size,
        )
        loader = MosaicParallelAwareDataloader(
            dataset,
            dp_rank=0,
            dp_world_size=arguments.ranks,
            batch_size=arguments.batch_size,
            num_nodes=arguments.nodes,
        )
    except MosaicDataError as error:
        if tokenizer is None and "holds text" in str(error):
            which = str(error).partition(";")[0]
            raise MosaicDataError(f"{which}: give --tokenizer NAME, or its directory") from error
        raise
    try:
        with readable_output():
            if arguments.plan:
                rows = loader.dp_world_size * loader.batch_size
                steps = arguments.steps or max(1, loader.run.source.epoch_rows() // rows)
                lines = forecast_lines(
                    Steps(loader, rows=rows, total=steps),
                    step_time=arguments.step_time,
                    bandwidth=arguments.bandwidth,
                    everything=True,
                )
                print(*lines, sep="\n")
                return
            lengths = {
                stream.name: _lengths(dataset, number)
                for number, stream in enumerate(dataset.streams)
            }
            table = [_HEADER, *(_row(dataset, n, lengths) for n in range(len(dataset.streams)))]
            print(aligned(table, left={0}))
            print(f"lengths are tokens of a sample, from up to {_SAMPLES:,} samples of each stream")
            plan = None
            if arguments.steps is not None:
                plan = Steps(loader, rows=arguments.step_rows, total=arguments.steps)
            print("", *mixture_tree(loader, plan), sep="\n")
            if arguments.picture:
                save_lengths(arguments.picture, lengths)
                print(f"picture: {arguments.picture}")
            for number in range(len(dataset.streams)):
                _print_samples(dataset, number, arguments.rows, tokenizer)
    finally:
        dataset.close()


def _stages(arguments: argparse.Namespace) -> Any:
    """The value of --stages; what it holds is checked by the data set."""
    if arguments.stages is None:
        return None
    try:
        return tomllib.loads(f"stages = {arguments.stages}")["stages"]
    except tomllib.TOMLDecodeError as error:
        raise MosaicDataError(f"--stages {arguments.stages!r} is not TOML: {error}") from error


def _row(
    dataset: "StreamingTextDataset", number: int, lengths: dict[str, list[int]]
) -> tuple[str, ...]:
    from mosaic_dataloader.inspect.tables import in_bytes
    from mosaic_dataloader.reading.manifest import prepared_tokens

    stream = dataset.streams[number]
    own = sorted(lengths[stream.name])
    samples = dataset.mixture.streams[number].samples
    tokens = prepared_tokens(stream)
    about = f"about {sum(own) / len(own) * samples:,.0f}"
    total = about if tokens is None else f"{tokens:,}"
    quantiles = (own[len(own) // 2], own[min(len(own) - 1, len(own) * 9 // 10)], own[-1])
    return (
        *(stream.name, f"{len(stream.readers):,}", f"{samples:,}", total),
        in_bytes(stream.raw_bytes),
        *(f"{length:,}" for length in quantiles),
    )


def _lengths(dataset: "StreamingTextDataset", number: int) -> list[int]:
    """Tokens of samples that lie evenly in the shards that are here, or are fetched for that."""
    stream = dataset.streams[number]
    near: list[int] = []
    may_fetch = _FETCHED_BYTES
    sample = int(dataset.mixture.stream_offsets[number])
    for shard, reader in enumerate(stream.readers):
        size = 0 if os.path.exists(stream.path(shard)) else int(reader.get_raw_size())
        # The first one in any case.
        if size <= may_fetch or not near:
            may_fetch -= size
            near += range(sample, sample + len(reader))
        sample += len(reader)
    step = -(-len(near) // _SAMPLES)
    return [len(dataset[index]) for index in near[::step]]


def _print_samples(
    dataset: "StreamingTextDataset", number: int, count: int, tokenizer: Any
) -> None:
    from mosaic_dataloader.inspect.text import row_lines

    first = int(dataset.mixture.stream_offsets[number])
    name = dataset.streams[number].name
    for place in range(min(count, dataset.mixture.streams[number].samples)):
        ids = dataset[first + place].tolist()
        print(f'\nstream "{name}", sample {place:,}: {len(ids):,} tokens')
        shown = ids[:_SHOWN]
        # Every token is shown as one with a label.
        print(*row_lines(shown, [0] * len(shown), tokenizer), sep="\n")
        if len(ids) > _SHOWN:
            print(f"  … and {len(ids) - _SHOWN:,} tokens more")
