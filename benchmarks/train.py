"""How long a training step waits for data: `debug.toml` on the CPU, and steps of 5 ms.

TorchTitan itself measures the wait (`data_loading_times` of its metrics processor). The constant
batch is one that lies in memory and is handed out again and again, which is as fast as any loader
could be. Steps of 5 ms are measured twice: as TorchTitan does, and around a bare `next`, for which
the constant batch is an `itertools.repeat`.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import rows_data
from benchmarks.common import (
    arguments,
    interleaved,
    machine,
    median,
    progress,
    ratio,
    report,
    table,
    verdict,
)

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "apps" / "train"
CONSTANT, OURS = "constant batch in memory", "mosaic-dataloader"
OTHER = "mosaic-dataloader, 2 worker processes"
STEP_SECONDS, BATCH = 5e-3, 8
SHARE, TIMES = 0.005, 2.0


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=10, help="of training, per round")
    parser.add_argument("--simulated", type=int, default=400, help="steps of 5 ms, per round")
    given = parser.parse_args(arguments_given)
    where = machine()
    bare = _simulated(given.work, given.rounds, iter, lambda own: _waits(own, given.simulated))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with (
        tempfile.TemporaryDirectory() as folder,
        app_trainer(_debug_options(given.work, folder)) as trainer,
    ):
        counted = _simulated(
            given.work,
            given.rounds,
            lambda own: trainer.batch_generator(own),
            lambda own: _waits_as_counted(trainer, own, given.simulated),
        )
        waits, steps = _measured(trainer, given.rounds, given.steps)
    asleep = {name: [STEP_SECONDS] * given.rounds for name in counted}
    intro = (
        f"Wait for data per step, in microseconds; means over a round's steps, medians of "
        f"{given.rounds} rounds. No GPU was used."
    )
    parts = [
        f"Steps of 5 ms (asleep), batch {BATCH} of 2,048 tokens, the wait as TorchTitan counts it:",
        _table(counted, asleep),
        "The same around a bare `next`:",
        _table(bare, asleep),
        "llama3 debugmodel, `debug.toml`, one rank on the CPU:",
        _table(waits, steps),
    ]
    figures = {
        "simulated": counted,
        "simulated_bare": bare,
        "trained": {"waits": waits, "steps": steps},
    }
    report(given, "train", "Training", intro, parts, figures, where)


def _table(waits: dict[str, list[float]], steps: dict[str, list[float]]) -> str:
    lines = []
    for name, own in waits.items():
        share = ratio(own, steps[name])
        times = ratio(own, waits[CONSTANT])
        ours = name == OURS
        lines.append(
            [
                name,
                f"{1e6 * median(own):.1f}",
                f"{times:.2f}",
                verdict(times, TIMES, at_most=True) if ours else "",
                f"{1e3 * median(steps[name]):.1f}",
                f"{share:.4%}",
                verdict(100 * share, 100 * SHARE, at_most=True) if ours else "",
            ]
        )
    return table(
        ["", "wait, µs", "of the constant batch", "target", "step, ms", "share", "target, %"], lines
    )


def _simulated(
    work: Path,
    rounds: int,
    begin: Callable[[Any], Iterator[Any]],
    waits: Callable[[Iterator[Any]], float],
) -> dict[str, list[float]]:
    """Mean waits of each round.

    Args:
        work: Where the data lie.
        rounds: How many.
        begin: Makes the iterator of a loader that steps are fed from.
        waits: Takes some steps and returns their mean wait in seconds.
    """
    loaders = {OURS: rows_data.loader(work, BATCH), OTHER: rows_data.loader(work, BATCH, workers=2)}
    running = {name: begin(own) for name, own in loaders.items()}
    running[CONSTANT] = begin(itertools.repeat(next(running[OURS])))
    for own in running.values():
        waits(own)
    found = interleaved(
        {name: lambda own=own: waits(own) for name, own in running.items()},  # type: ignore[misc]
        rounds,
    )
    for one in loaders.values():
        one.close()
    return {name: found[name] for name in (CONSTANT, OURS, OTHER)}


def _waits(batches: Iterator[Any], steps: int) -> float:
    """Mean wait in seconds."""
    waited = 0.0
    for _ in range(steps):
        begun = time.perf_counter()
        inputs, labels = next(batches)
        waited += time.perf_counter() - begun
        time.sleep(STEP_SECONDS)
        # As a trainer does, which looks at the batch and lets it go after the step.
        del inputs, labels
    return waited / steps


def _waits_as_counted(trainer: Any, batches: Iterator[Any], steps: int) -> float:
    """Mean wait in seconds, as TorchTitan counts it."""
    times = trainer.metrics_processor.data_loading_times
    times.clear()
    _waits(batches, steps)
    return statistics.mean(times)


@contextmanager
def app_trainer(options: list[str]) -> Iterator[Any]:
    """TorchTitan's own Trainer of one rank, as the app makes it from a command line."""
    import sys

    sys.path.insert(0, str(APP))
    for name, value in (
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_WORLD_SIZE", "1"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "0"),
    ):
        os.environ[name] = value
    from mosaic_config import MosaicConfigManager
    from mosaic_train.setup import prepare_and_check
    from mosaic_train.spec import register_spec
    from mosaic_trainspec import patch_torchtitan

    config = MosaicConfigManager().parse_args(options)
    prepare_and_check(config, world_size=1, ranks_here=1)
    patch_torchtitan()
    config.model.name = register_spec(config)
    from torchtitan.train import Trainer

    trainer: Any = Trainer(config)
    try:
        yield trainer
    finally:
        trainer.close()


def _debug_options(work: Path, folder: str) -> list[str]:
    """Those of `debug.toml`, with its data where benchmarks keep theirs."""
    data = work.resolve() / "train"
    tokenizer = str(data / "tokenizer")
    return [
        *("--config-path", str(APP / "configs" / "debug.toml")),
        *("--job.dump_folder", folder, "--checkpoint.no-enable"),
        *("--mosaic_prepare.output", str(data / "rows")),
        *("--mosaic_prepare.train_tokenizer", tokenizer),
        *("--mosaic_tokenizer.name", tokenizer),
        *("--mosaic_dataloader.dataset.streams.stdlib.local", str(data / "rows")),
        *("--metrics.log_freq", "1000000"),
    ]


def _measured(
    trainer: Any, rounds: int, steps: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Waits and whole steps of training, fed in turn by either."""
    batch = next(iter(trainer.dataloader))
    sources: dict[str, Callable[[], Iterator[Any]]] = {
        CONSTANT: lambda: trainer.batch_generator(_again(batch)),
        OURS: lambda: trainer.batch_generator(trainer.dataloader),
    }
    waits: dict[str, list[float]] = {name: [] for name in sources}
    took: dict[str, list[float]] = {name: [] for name in sources}
    running = {name: begin() for name, begin in sources.items()}
    for number in range(rounds + 1):
        names = list(sources)
        for name in names if number % 2 else reversed(names):
            times = trainer.metrics_processor.data_loading_times
            times.clear()
            whole = []
            for _ in range(steps):
                begun = time.perf_counter()
                trainer.step += 1
                trainer.train_step(running[name])
                whole.append(time.perf_counter() - begun)
            if number:
                waits[name].append(statistics.mean(times))
                took[name].append(statistics.mean(whole))
        progress(f"training, round {number} of {rounds}")
    return waits, took


def _again(batch: Any) -> Iterator[Any]:
    """The same tensors; the mapping is a new one, since the trainer writes into it."""
    inputs, labels = batch
    while True:
        yield dict(inputs), labels


if __name__ == "__main__":
    main()
