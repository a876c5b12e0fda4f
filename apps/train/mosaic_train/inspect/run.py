"""The command."""

import os
import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.checkpoint import check_checkpoint
from mosaic_train.checks.model import find_model
from mosaic_train.checks.parallel import check_batches, find_layout
from mosaic_train.checks.vocabulary import check_vocabulary, load_tokenizer
from mosaic_train.data import prepare_data
from mosaic_train.inspect.packed import PackedLook, look_at_packed, print_packed_rows
from mosaic_train.inspect.picture import save_picture
from mosaic_train.inspect.rows import real_tokens, row_lines
from mosaic_train.inspect.start import Start, find_start
from mosaic_train.inspect.streams import run_lines, stream_table

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# For the picture: steps whose mixture is shown, rows whose length is read, and shards that are
# fetched for it beyond those of the rows that are printed.
_STEPS, _ROWS, _SHARDS = 100, 512, 4


def inspect_data(
    config: "MosaicJobConfig", *, world_size: int, rows: int, step: int | None
) -> None:
    """Print the streams, what the run makes of them and rows of a step; save the picture.

    Args:
        config: The configuration.
        world_size: Ranks that the run would have.
        rows: Rows to print.
        step: Whose rows; None for the first one that would be trained.

    Raises:
        TrainError: A mistake that the app finds. The packages' own errors pass through.
    """
    model = find_model(config)
    layout = find_layout(config, world_size)
    check_batches(config, layout)
    check_checkpoint(config)
    prepare_data(config)
    tokenizer = load_tokenizer(config)
    if tokenizer is not None:
        check_vocabulary(config, model, tokenizer)
    start = find_start(config, layout.dp_world_size, tokenizer)
    try:
        if step is None:
            step = start.steps_done + 1
        position = start.position_of(step)
        print(stream_table(config, start), "", sep="\n")
        print(*run_lines(config, start, layout.dp_world_size), sep="\n")
        path = Path(config.job.dump_folder, f"inspect-data-step-{step}.png")
        packed = look_at_packed(start, step, position, rows) if start.packing else None
        _draw(start, step, position, rows, path, packed)
        print(f"picture: {path}\n", flush=True)
        _print_rows(start, step, position, rows, tokenizer, packed)
    except BrokenPipeError:
        # `| head` has seen enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        start.loader.dataset.close()


def _print_rows(
    start: Start, step: int, position: int, rows: int, tokenizer: Any, packed: PackedLook | None
) -> None:
    from mosaic_dataloader.preview import preview

    count = min(rows, start.step_samples)
    what = "row" if packed else "sample"
    print(f"step {step}: {count} of its {start.step_samples:,} rows, {what} {position:,} and on")
    if hasattr(sys.stdout, "reconfigure"):
        # Texts have characters that a terminal's encoding may lack.
        sys.stdout.reconfigure(errors="backslashreplace")
    if packed:
        print_packed_rows(start, packed.rows, tokenizer)
        return
    batch = start.loader.batch_size * start.loader.dp_world_size
    for number, row in enumerate(islice(preview(start.loader, position), count), 1):
        (origin,) = row.origins
        inputs, labels = (part.tolist() for part in row.read())
        targets = sum(label >= 0 for label in labels)
        micro = (number - 1) // batch + 1
        print(
            f"\nrow {number}: micro-batch {micro}, rank {origin.rank}, row {origin.row + 1}; "
            f'stream "{origin.stream}", {os.path.basename(origin.shard)}, place {origin.place:,} '
            f"(sample {origin.sample:,} of the stream); epoch {origin.epoch}; "
            f"{real_tokens(labels):,} tokens, {targets:,} targets, "
            f"{len(labels) - targets:,} labels ignored"
        )
        print(*row_lines(inputs, labels, tokenizer), sep="\n")


def _draw(
    start: Start, step: int, position: int, rows: int, path: Path, packed: PackedLook | None
) -> None:
    from mosaic_dataloader.preview import stream_counts

    loader = start.loader
    if packed:
        from mosaic_dataloader.reading.document_length import tokens_per_stream

        tokens = tokens_per_stream(loader.dataset.streams, loader.dataset.mixture)
        save_picture(
            path,
            lengths=packed.lengths,
            shares=packed.shares,
            configured=[own / sum(tokens) for own in tokens],
            seq_len=loader.dataset.seq_len,
            first_step=step,
            packed_rows=packed.read,
        )
        return
    sizes = loader.dataset.mixture.streams
    batches = start.step_samples // (loader.batch_size * loader.dp_world_size)
    counts = stream_counts(loader, position, _STEPS * batches)
    by_step = counts.reshape(_STEPS, batches, len(sizes)).sum(axis=1)
    whole = sum(size.choose for size in sizes)
    save_picture(
        path,
        lengths=_lengths(start, position, rows),
        shares=by_step / start.step_samples,
        configured=[size.choose / whole for size in sizes],
        seq_len=loader.dataset.seq_len,
        first_step=step,
    )


def _lengths(start: Start, position: int, rows: int) -> dict[str, list[int]]:
    """Tokens of the first rows by stream; those of shards that are far away are passed over."""
    from mosaic_dataloader.preview import preview

    dataset = start.loader.dataset
    lengths: dict[str, list[int]] = {stream.name: [] for stream in dataset.streams}
    fetched = 0
    for number, row in enumerate(islice(preview(start.loader, position), max(rows, _ROWS))):
        (origin,) = row.origins
        if number >= min(rows, start.step_samples) and not os.path.exists(origin.shard):
            if fetched == _SHARDS:
                continue
            fetched += 1
        _, labels = row.read()
        lengths[origin.stream].append(real_tokens(labels.tolist()))
    return lengths
