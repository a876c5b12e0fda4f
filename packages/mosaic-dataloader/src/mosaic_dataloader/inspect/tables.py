"""The streams and the run, as tables and lines."""

from collections.abc import Collection, Sequence

from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.reading.document_length import rows_of_epoch
from mosaic_dataloader.reading.manifest import prepared_tokens
from mosaic_dataloader.storage.streams import DataStream

_HEADER = (
    *("stream", "samples", "tokens", "shards", "size"),
    *("weight", "per epoch", "share", "times in the run"),
)


def stream_table(steps: Steps) -> str:
    """One line for each stream: what it holds, and what an epoch and the whole run take of it."""
    dataset = steps.loader.dataset
    if dataset.stage_config is not None:
        return _stage_tree(steps)
    epochs = run_epochs(steps)
    whole = sum(size.choose for size in dataset.mixture.streams)
    rows: list[Sequence[str]] = [_HEADER]
    for opened, size in zip(dataset.streams, dataset.mixture.streams, strict=True):
        tokens = prepared_tokens(opened)
        rows.append(
            (
                *(opened.name, f"{size.samples:,}", "unknown" if tokens is None else f"{tokens:,}"),
                *(f"{len(opened.readers):,}", in_bytes(stored_bytes(opened)), _weight(opened)),
                *(f"{size.choose:,}", f"{size.choose / whole:.1%}"),
                f"{epochs * size.choose / size.samples:.2f}",
            )
        )
    return aligned(rows, left={0, _HEADER.index("weight")})


def _stage_tree(steps: Steps) -> str:
    """The stages, and below each what it draws from every stream until the run ends.

    Positions of documents are estimates: how many a packed row holds is known when it is read.
    """
    source = steps.loader.run.source
    stages = source.order.stages
    assert stages is not None
    end = steps.position_of(max(steps.total, steps.done) + 1)
    about = ""
    if steps.packing:
        dataset, about = steps.loader.dataset, "about "
        rows = rows_of_epoch(dataset.streams, dataset.mixture, dataset.seq_len)
        end = end * dataset.mixture.num_samples // rows
    lines: list[str] = []
    for number, stage in enumerate(stages.stages):
        following = [one.start for one in stages.stages[number + 1 : number + 2]]
        stop = min([end, *following])
        if stop <= stage.start:
            lines.append(f"stage from {source.unit} {stage.start:,}: after the end of the run")
            continue
        lines.append(
            f"stage from {source.unit} {stage.start:,}, {about}{stop - stage.start:,} "
            f"{source.unit}s until {'the next one' if following == [stop] else 'the run ends'}"
        )
        drawn, total = source.sequence.draws(stage.start, stop), source.sequence.draws(0, stop)
        rows_of_table: list[Sequence[str]] = [
            ("stream", "weight", "drawn", "of samples", "tokens", "epochs by then")
        ]
        for own, stream in enumerate(stages.streams):
            if drawn[own]:
                tokens = int(drawn[own]) * stages.millitokens[own] / 1000
                rows_of_table.append(
                    (
                        *(stream.name, f"{stage.counts[own] / sum(stage.counts):.2%}"),
                        *(f"{drawn[own]:,}", f"{stream.samples:,}", f"{tokens:,.0f}"),
                        f"{total[own] / stream.samples:.2f}",
                    )
                )
        lines += [f"  {line}" for line in aligned(rows_of_table, left={0}).splitlines()]
    return "\n".join(lines)


def run_lines(steps: Steps, resumes_from: str | None) -> list[str]:
    """What the run makes of them."""
    loader, order = steps.loader, steps.loader.order
    kind = f"{order.shuffle_algo}, seed {order.shuffle_seed}" if order.shuffle else "not shuffled"
    here = steps.place(loader.samples_seen)
    begins = (
        f"resumes from {resumes_from}, step {steps.done}, at {here}"
        if resumes_from
        else f"begins at {here}"
    )
    if steps.packing and loader.samples_skipped:
        begins += f" ({loader.samples_skipped:,} documents skipped)"
    end = steps.position_of(max(steps.total, steps.done) + 1)
    return [
        f"order: {kind}; {order.batching_method} batches; {order.num_canonical_nodes} canonical "
        f"node(s); {loader.epoch_samples:,} {'documents' if steps.packing else 'samples'} an epoch",
        f"step:  {steps.rows:,} rows = {loader.dp_world_size} data-parallel rank(s) * "
        f"{loader.batch_size} rows * {steps.micro_batches} micro-batch(es), of "
        f"{loader.dataset.seq_len:,} tokens",
        f"run:   {begins}; {steps.total:,} steps end at {steps.place(end)}, after "
        f"{'about ' if steps.packing else ''}{run_epochs(steps):.2f} epochs",
    ]


def run_facts(steps: Steps) -> list[str]:
    """What a run trains on, in parts of a sentence: samples of an epoch, and rows of the run.

    Args:
        steps: The steps of the run.
    """
    dataset = steps.loader.dataset
    samples, streams = dataset.mixture.epoch_samples, len(dataset.streams)
    left = max(0, steps.total - steps.done)
    rows = left * steps.rows
    if steps.done:
        subject = f"{left:,} of {steps.total:,} steps are left and train on"
    else:
        subject = f"{left:,} steps train on" if left != 1 else "1 step trains on"
    if dataset.packing:  # a row holds many samples, or a part of one
        amount = f"{rows:,} rows"
    elif rows <= samples:
        amount = f"{rows:,} of them, {rows / samples:.3g} epochs"
    else:
        amount = f"each {rows / samples:.3g} times"
    return [
        f"{samples:,} samples per epoch from {streams} stream{'s' if streams > 1 else ''}",
        f"{subject} {amount}",
    ]


def run_epochs(steps: Steps) -> float:
    """Epochs that all steps together train on, those before the checkpoint too.

    With packing this is an estimate by the sizes in the indexes.
    """
    end = steps.position_of(max(steps.total, steps.done) + 1)
    end -= steps.loader.run.source.order.skip.before(end)
    if steps.packing:
        dataset = steps.loader.dataset
        return end / rows_of_epoch(dataset.streams, dataset.mixture, dataset.seq_len)
    return (end - steps.loader.samples_skipped) / steps.loader.epoch_samples


def stored_bytes(stream: DataStream) -> int:
    """Bytes of a stream's shards, decompressed."""
    return sum(int(raw.bytes) for reader in stream.readers for raw, _ in reader.file_pairs)


def in_bytes(count: float) -> str:
    """A number of bytes in words."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def aligned(rows: Sequence[Sequence[str]], *, left: Collection[int]) -> str:
    """Rows of cells in columns; those in `left` begin at the same place, the others end there."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number in left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _weight(stream: DataStream) -> str:
    for kind in ("proportion", "repeat", "choose"):
        # mosaicml-streaming keeps what was given apart from what it works out.
        value = getattr(stream.stream, f"_{kind}")
        if value is not None:
            return f"{kind} {value:g}" if kind != "choose" else f"choose {value:,}"
    return "all of it"
