"""The look at a run: its streams, what it makes of them, and the rows of a step."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from mosaic_dataloader.inspect.forecasts import forecast_lines
from mosaic_dataloader.inspect.mixture import mixture_parts, mixture_tree, shares
from mosaic_dataloader.inspect.packed import PackedLook, documents_of, look_at_packed
from mosaic_dataloader.inspect.picture import PicturedPart, save_run
from mosaic_dataloader.inspect.previews import preview
from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.inspect.tables import run_lines, stream_table
from mosaic_dataloader.inspect.text import real_tokens, row_lines
from mosaic_dataloader.reading.origins import PreviewRow, RowOrigin

# For the picture: steps whose mixture is shown, rows whose length is read, and shards that are
# fetched for it beyond those of the rows that are printed.
_STEPS, _ROWS, _SHARDS = 100, 512, 4


def print_run(
    steps: Steps,
    *,
    step: int,
    rows: int,
    tokenizer: Any,
    picture: Path,
    resumes_from: str | None = None,
    step_time: float | None = None,
    bandwidth: int | str | None = None,
) -> None:
    """Print the streams, what the run makes of them, what it will fetch, and rows of a step.

    A picture is saved as well.

    Args:
        steps: The steps of the run.
        step: The step whose rows to print.
        rows: How many of them.
        tokenizer: Of transformers, or what `build_mosaic_tokenizer` returned; None prints token
            ids.
        picture: A PNG file for row lengths and shares of the streams; its folder is made.
        resumes_from: The checkpoint that the run resumes from, for the print.
        step_time: Seconds of a step, for the forecast of what is fetched; None if not known.
        bandwidth: Bytes a second that arrive at a machine, as a number or like ``"500mb"``.

    Raises:
        MosaicDataError: The step lies before the order begins, the data cannot be read, or
            matplotlib is missing.
    """
    with readable_output():
        position = steps.position_of(step)
        print(stream_table(steps.loader.dataset), "", sep="\n")
        print(*mixture_tree(steps.loader, steps), "", sep="\n")
        print(*run_lines(steps, resumes_from), sep="\n")
        print(*forecast_lines(steps, step_time=step_time, bandwidth=bandwidth), sep="\n")
        packed = look_at_packed(steps, step, position, rows) if steps.packing else None
        _draw(steps, step, position, rows, picture, packed)
        print(f"picture: {picture}\n", flush=True)
        count, what = min(rows, steps.rows), "row" if packed else "sample"
        print(f"step {step}: {count} of its {steps.rows:,} rows, {what} {position:,} and on")
        shown = packed.rows if packed else islice(preview(steps.loader, position), count)
        _print_rows(steps, shown, tokenizer)


@contextmanager
def readable_output() -> Iterator[None]:
    """Print any text inside, and end quietly when the reader of the output has seen enough."""
    if hasattr(sys.stdout, "reconfigure"):
        # Texts have characters that a terminal's encoding may lack.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
        # Here and not as the interpreter ends, which would report a closed pipe.
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has closed its end; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_rows(steps: Steps, rows: Iterable[PreviewRow], tokenizer: Any) -> None:
    batch = steps.loader.batch_size * steps.loader.dp_world_size
    for number, row in enumerate(rows, 1):
        inputs, labels = (part.tolist() for part in row.read())
        targets = sum(label >= 0 for label in labels)
        documents = documents_of(row)
        if documents:
            what = f"lane {row.lane}, {len(documents)} document(s); {len(labels):,} tokens"
        else:
            (origin,) = row.origins
            what = (
                f'stream "{origin.stream}", {_in_shard(origin)}; epoch {origin.epoch}; '
                f"{real_tokens(labels):,} tokens"
            )
        print(
            f"\nrow {number}: micro-batch {(number - 1) // batch + 1}, rank {row.rank}, row "
            f"{row.row + 1}; {what}, {targets:,} targets, {len(labels) - targets:,} labels ignored"
        )
        for place, part in enumerate(documents, 1):
            print(
                f'  document {place}: stream "{part.stream}", {_in_shard(part)}; epoch '
                f"{part.epoch}; its tokens {part.offset + 1:,} to {part.offset + part.tokens:,} of "
                f"{part.length:,}, from token {part.begin + 1:,} of the row on"
            )
        begins = [part.begin for part in documents]
        print(*row_lines(inputs, labels, tokenizer, begins), sep="\n")


def _in_shard(origin: RowOrigin) -> str:
    shard = os.path.basename(origin.shard)
    return f"{shard}, place {origin.place:,} (sample {origin.sample:,} of the stream)"


def _draw(
    steps: Steps, step: int, position: int, rows: int, path: Path, packed: PackedLook | None
) -> None:
    # Of the rows' targets where rows are packed, as those of the steps are.
    parts = []
    for part in mixture_parts(steps.loader, steps):
        if part.stop is not None and part.start < part.stop:
            asked = shares(part.asked, part.tokens if steps.packing else 1.0).tolist()
            first, last = steps.step_at(part.start), steps.step_at(part.stop - 1)
            parts.append(PicturedPart(first, last, dict(zip(part.streams, asked, strict=True))))
    save_run(
        path,
        lengths=packed.lengths if packed else _lengths(steps, position, rows),
        shares=packed.shares if packed else steps.shares(position, _STEPS),
        parts=parts,
        seq_len=steps.loader.dataset.seq_len,
        first_step=step,
        packed_rows=packed.read if packed else 0,
    )


def _lengths(steps: Steps, position: int, rows: int) -> dict[str, list[int]]:
    """Tokens of the first rows by stream; those of shards that are far away are passed over."""
    lengths: dict[str, list[int]] = {s.name: [] for s in steps.loader.dataset.streams}
    fetched = 0
    for number, row in enumerate(islice(preview(steps.loader, position), max(rows, _ROWS))):
        (origin,) = row.origins
        if number >= min(rows, steps.rows) and not os.path.exists(origin.shard):
            if fetched == _SHARDS:
                continue
            fetched += 1
        _, labels = row.read()
        lengths[origin.stream].append(real_tokens(labels.tolist()))
    return lengths
