"""Components of torchtitan 0.3, and the override that puts them into any configuration.

All that depends on the shapes of torchtitan 0.3 stands in this module (and, for machines without an
accelerator, in `cpu`): what a component is built with, in which order they are built, and what the
Trainer and the Validator call.
"""

import sys
import types
import typing
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import tyro
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.components.validate import BaseValidator, Validator
from torchtitan.config import Configurable
from torchtitan.config.override import derive, override
from torchtitan.distributed import ParallelDims
from torchtitan.tools import utils
from torchtitan.tools.logging import logger

from mosaic_dataloader import (
    MosaicDataError,
    build_mosaic_dataloader,
    build_mosaic_tokenizer,
    build_mosaic_validation_dataloader,
    checks,
)
from mosaic_titan import sections

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
SumOverRanks = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class _Run:
    """What components of one run know of one another: torchtitan builds each by itself.

    Attributes:
        vocab_size: Token ids that the model embeds; None where no `MosaicMetricsProcessor`, which
            is built first and sees the whole configuration, has said so.
        sum_over_ranks: Sums a tensor over the data-parallel ranks; None as above.
        training: torchtitan's options of training; None as above.
        loader: The training loader that was built last.
    """

    vocab_size: int | None = None
    sum_over_ranks: SumOverRanks | None = None
    training: dict[str, Any] | None = None
    loader: "weakref.ref[MosaicDataLoader] | None" = None


_run = _Run()


class MosaicTokenizer(BaseTokenizer):
    """A Hugging Face tokenizer by name or directory.

    Args:
        config: Which one.
        tokenizer_path: The Trainer's `hf_assets_path`, used where the configuration gives no name
            and the directory holds a tokenizer. Rows of stored tokens need none.

    Raises:
        MosaicDataError: The tokenizer cannot be loaded.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """Which tokenizer."""

        name: str | None = None
        """Directory, or name on the Hugging Face hub. None: the one in `hf_assets_path`, if any."""

        kwargs: Annotated[dict[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
        """Keywords for `AutoTokenizer.from_pretrained`."""

    def __init__(self, config: Config, *, tokenizer_path: str = "", **_: Any):
        _report_mistakes_in_one_line()
        super().__init__()  # type: ignore[no-untyped-call]
        name = config.name
        if name is None and tokenizer_path and any(Path(tokenizer_path).glob("tokenizer*.*")):
            name = tokenizer_path
        self._inner = build_mosaic_tokenizer(
            types.SimpleNamespace(mosaic_tokenizer={"name": name, "kwargs": config.kwargs})
        )
        logger.info("tokenizer: %s", name or "none; rows of stored tokens need none")
        # What the loader and torchtitan ask for.
        self.tokenizer = self._inner.tokenizer if self._inner else None
        self.bos_id = self._inner.bos_id if self._inner else None
        self.eos_id = self._inner.eos_id if self._inner else None
        self.pad_id = self._inner.pad_id if self._inner else None

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Token ids of a text; `add_bos` and `add_eos` are true by default."""
        return self._known().encode(*args, **kwargs)  # type: ignore[no-any-return]

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """The text of token ids."""
        return self._known().decode(*args, **kwargs)  # type: ignore[no-any-return]

    def get_vocab_size(self) -> int:
        """Embeddings that the tokenizer needs."""
        return self._known().get_vocab_size()  # type: ignore[no-any-return]

    def _known(self) -> Any:
        if self._inner is None:
            raise MosaicDataError("there is no tokenizer; set mosaic_tokenizer.name")
        return self._inner


class MosaicDataLoader(BaseDataLoader):
    """Batches out of Mosaic streams, with positions of tokens in their documents.

    The data position does not depend on the layout: what one rank saved, any number resumes. With
    pipeline parallelism a batch is a micro-batch.

    Args:
        config: The data, and how they are read.
        dp_world_size: Data-parallel ranks.
        dp_rank: This one's number among them.
        tokenizer: For text, and for the token that ends a document where the data do not say.
        seq_len: Tokens in a row.
        local_batch_size: Rows of a batch on this rank.
        validation: Give the same finite pass in each iteration, the same number of batches on
            every rank, padded at its end.

    Raises:
        MosaicDataError: An option or the data cannot be used; the message says what to change.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """The options of mosaic-dataloader's `StreamingTextDataset` and its loader.

        They have that class's names, meanings and defaults; positions are always given, because
        torchtitan makes its attention masks of them.
        """

        streams: Annotated[dict[str, dict[str, Any]], tyro.conf.Suppress] = field(
            default_factory=dict
        )
        """By name, the options of each stream: remote, local, split, proportion, …"""

        remote: str | None = None
        """Address or directory of a single data set, in place of streams."""

        local: str | None = None
        """Directory of a single data set, or in which it is cached."""

        split: str | None = None
        token_encoding_type: str = "int64"
        epoch_size: int | str | None = None
        predownload: int | None = None
        cache_limit: int | str | None = None
        cache_dir: str | None = None
        download_retry: int = 2
        download_timeout: float = 60.0
        validate_hash: str | None = None
        keep_zip: bool = False
        allow_unsafe_types: bool = False
        on_data_change: str = "error"
        shuffle: bool = False
        shuffle_algo: str = "py1e"
        shuffle_seed: int = 9176
        shuffle_block_size: int | None = None
        num_canonical_nodes: int | None = None
        sampling_method: str = "balanced"
        sampling_granularity: int = 1
        batching_method: str = "random"

        packing: bool = False
        """Join documents into full rows, each attending to itself only."""

        packing_lanes: int | None = None

        stages: Annotated[list[dict[str, Any]] | None, tyro.conf.Suppress] = None
        """A mixture that changes during the run: weights of the streams, and a length, by stage."""

        weights_in: str = "samples"
        """Whether proportions and weights of stages count samples or tokens."""

        max_repeats: float | None = None
        """How often a stream may be seen in the planned run; see `StreamingTextDataset`."""

        skip: tuple[str, ...] = ()
        """Positions to leave out of training, as ["1200000:1250000"]; after a loss spike."""

        mask_boundaries: bool = False
        """Ignore the label that would predict the next document's first token."""

        vocab_size: int | None = None
        """
        Token ids that the model embeds; a batch with another one ends the run with a line that
        names it. None: the model's, where the metrics are Mosaic's too.
        """

        num_workers: int = 0
        prefetch_factor: int | None = None
        pin_memory: bool = False
        persistent_workers: bool = False

        stall_warning: float = 60.0
        """Seconds without a batch after which a line says what is waited for."""

        drop_last: bool = True
        """For infinite = False: leave out a last batch that is not full."""

        skip_samples: int = 0
        """Samples of the order that a new run leaves out at its start."""

        infinite: bool = True
        """Run across epoch ends. False: training ends with the epoch."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        tokenizer: BaseTokenizer,
        seq_len: int,
        local_batch_size: int,
        validation: bool = False,
        **_: Any,
    ):
        _report_mistakes_in_one_line()
        if config.dataset or config.dataset_path:
            raise MosaicDataError(
                "dataloader.dataset and dataset_path are for torchtitan's own loader; name data in "
                "streams, remote or local"
            )
        size = types.SimpleNamespace(seq_len=seq_len, local_batch_size=local_batch_size)
        section = sections.VALIDATION if validation else sections.TRAINING
        build = build_mosaic_validation_dataloader if validation else build_mosaic_dataloader
        self._loader: Any = build(
            dp_world_size=dp_world_size,
            dp_rank=dp_rank,
            tokenizer=tokenizer if getattr(tokenizer, "tokenizer", None) is not None else None,
            job_config=types.SimpleNamespace(
                training=size, validation=size, **{section: _as_section(config, validation)}
            ),
            vocab_size=config.vocab_size or _run.vocab_size,
        )
        self._checks_repeats = not validation
        if not validation:
            _run.loader = weakref.ref(self)

    @property
    def loader(self) -> Any:
        """The `MosaicParallelAwareDataloader` behind this component."""
        return self._loader

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the present position on.

        Yields `({"input", "positions"}, labels)`, each int64[B, T].

        Raises:
            MosaicDataError: A stream would be seen more often in the run than `max_repeats` allows.
        """
        if self._checks_repeats:
            self._check_repeats()
        return iter(self._loader)

    def _check_repeats(self) -> None:
        self._checks_repeats = False
        loader, training = self._loader, _run.training
        if training is None:
            if any(loader.dataset.max_repeats.values()):
                raise MosaicDataError(
                    "max_repeats needs the length of the run, which MosaicMetricsProcessor passes "
                    "on: set metrics to MosaicMetricsProcessor.Config(), or remove max_repeats"
                )
            return
        rows = training["global_batch_size"]
        if rows < 0:
            rows = training["local_batch_size"] * loader.dp_world_size
        left = training["steps"] * rows - loader.counters().rows
        for line in checks.too_many_repeats(loader, steps=left, step_rows=1):
            raise MosaicDataError(line)
        for line in checks.many_repeats(loader, steps=left, step_rows=1):
            if not loader.dp_rank:
                logger.warning(line)

    def state_dict(self) -> dict[str, Any]:
        """The position; a collective where `MosaicMetricsProcessor` counts tokens.

        torchtitan's checkpointer calls it on all ranks together, in the training thread.
        """
        self.sync_token_counts()
        return self._loader.state_dict()  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved position, whatever the layout was."""
        self._loader.load_state_dict(state_dict)

    def sync_token_counts(self) -> None:
        """Add up over all ranks what was read since the last call; all of them call it together."""
        if self._loader.dp_world_size > 1 and _run.sum_over_ranks is not None:
            self._loader.sync_token_counts(_run.sum_over_ranks)

    def close(self) -> None:
        """Stop reading ahead and let the data go."""
        self._loader.close()
        self._loader.dataset.close()


def _as_section(config: MosaicDataLoader.Config, validation: bool) -> dict[str, Any]:
    """A configuration as `[mosaic_dataloader]` has it."""
    left_out = {"dataset", "dataset_path", "infinite", "vocab_size"}
    options = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in left_out}
    section = {key: options.pop(key) for key in sections.LOADER_KEYS}
    section["dataset"] = {**options, "positions": True}
    if not validation:
        section["infinite"] = config.infinite
    return section


class MosaicMetricsProcessor(MetricsProcessor):
    """Logs what the loader's `metrics` and `loading_counters` say beside torchtitan's own figures.

    Stages are named as they begin. Counts are those of the whole run, over all ranks and restarts;
    the figures of loading are those of the loader of the rank that logs, since the line before.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        """torchtitan's own options."""

    def __init__(
        self,
        config: Config,
        *,
        parallel_dims: ParallelDims,
        config_dict: dict[str, Any] | None = None,
        **options: Any,
    ):
        super().__init__(config, parallel_dims=parallel_dims, config_dict=config_dict, **options)
        model = (config_dict or {}).get("model_spec", {}).get("model", {})
        _run.vocab_size = model.get("vocab_size")
        _run.training = (config_dict or {}).get("training")
        _run.sum_over_ranks = _summing(parallel_dims)
        self._loading_before: dict[str, float] = {}

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Log a training step; all ranks call this together."""
        self._log_stage(step)
        data = self._data_metrics()
        loading = self._loading_metrics()
        super().log(
            step,
            global_avg_loss,
            global_max_loss,
            grad_norm,
            extra_metrics={**(extra_metrics or {}), **data, **loading},
        )
        if data:
            shown = {**data, **{name: value for name, value in loading.items() if value}}
            words = (f"{name.partition('/')[2]}: {_short(shown[name])}" for name in shown)
            logger.info("data  %s", "  ".join(words))

    def should_log(self, step: int) -> bool:
        """Whether this step is logged; asked before a step takes its batches."""
        self._log_stage(step - 1)
        return super().should_log(step)

    def _log_stage(self, step: int) -> None:
        """Say that a stage has begun in a step, if one has since this was last called."""
        component = _run.loader() if _run.loader else None
        stage = component.loader.stage_begun() if component else None
        if stage is not None:
            logger.info("%s begins at step %s: %s", stage, f"{step:,}", stage.mixture)

    def _loading_metrics(self) -> dict[str, float]:
        component = _run.loader() if _run.loader else None
        if component is None:
            return {}
        counted: dict[str, float] = component.loader.loading_counters()
        before, self._loading_before = self._loading_before, counted
        return {
            # How many batches are ready is a state; all else is counted from the beginning.
            f"loading/{name}": value - (before.get(name, 0) if name != "batches_ready" else 0)
            for name, value in counted.items()
        }

    def _data_metrics(self) -> dict[str, float]:
        component = _run.loader() if _run.loader else None
        if component is None:
            return {}
        metrics: dict[str, float] = component.loader.metrics(_run.sum_over_ranks)
        return metrics


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _summing(parallel_dims: ParallelDims) -> SumOverRanks:
    def sum_over_ranks(counts: torch.Tensor) -> torch.Tensor:
        return _reduced(counts, parallel_dims, torch.distributed.ReduceOp.SUM)

    return sum_over_ranks


def _reduced(values: torch.Tensor, parallel_dims: ParallelDims, how: Any) -> torch.Tensor:
    """A tensor reduced over the ranks that read different rows."""
    if not parallel_dims.dp_enabled:
        return values
    values = values.to(utils.device_type)
    group = parallel_dims.get_mesh("batch").get_group()
    torch.distributed.all_reduce(values, op=how, group=group)
    return values.cpu()


class MosaicValidator(Validator):
    """torchtitan's validation over a finite pass, which is the same in each validation.

    The loss is the exact mean over all targets, the same for any number of ranks. With several
    streams they are read one after another, and the exact mean of each is logged as well, as
    `validation_metrics/loss/<stream>`. With `steps = -1` every sample counts once; otherwise the
    first batches of each stream do, `steps` in all. The training run is not disturbed: it continues
    as if there had been no validation.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        """torchtitan's own options; `dataloader` is a `MosaicDataLoader.Config`."""

        dataloader: BaseDataLoader.Config = field(default_factory=MosaicDataLoader.Config)

    def __init__(self, config: Config, **options: Any):
        _report_mistakes_in_one_line()
        if not isinstance(config.dataloader, MosaicDataLoader.Config):
            raise MosaicDataError(
                "MosaicValidator needs a MosaicDataLoader.Config as its dataloader"
            )
        # torchtitan warns of ranks that end at different batches, which here they do not.
        super().__init__(replace(config, steps=max(config.steps, 1)), **options)
        self.config = config
        rows, micro_batches = self.local_batch_size, 1
        if self.parallel_dims.pp_enabled:
            rows = self.parallelism.pipeline_parallel_microbatch_size
            micro_batches = self.local_batch_size // rows
        # What torchtitan builds anew in each validation is built once, here.
        loader = MosaicDataLoader(
            config.dataloader,
            dp_world_size=self.dp_world_size,
            dp_rank=self.dp_rank,
            tokenizer=self.tokenizer,
            seq_len=self.seq_len,
            local_batch_size=rows,
            validation=True,
        ).loader
        streams = loader.by_stream()
        if len(streams) == 1:
            streams = dict.fromkeys(streams, loader)
        if config.steps != -1 and config.steps < len(streams):
            raise MosaicDataError(
                f"validator.steps is {config.steps}, too few for a batch of each of the "
                f"{len(streams)} validation streams; set it to {len(streams)} or more, or to -1"
            )
        self._passes = {
            name: _StreamPass(one, self.parallel_dims, micro_batches)
            for name, one in streams.items()
        }

    def validate(self, model_parts: list[torch.nn.Module], step: int) -> None:
        """Log the mean loss; all ranks call it together."""
        config: Any = self.config
        steps, count = config.steps, len(self._passes)
        means: dict[str, float] = {}
        targets: dict[str, int] = {}
        with _kept_buffers(model_parts), _stopped_training_clock(self.metrics_processor):
            for number, (name, one) in enumerate(self._passes.items()):
                share = steps // count + (number < steps % count)
                limit = -1 if steps == -1 else share
                means[name] = self._mean(model_parts, step, name, limit)
                targets[name] = one.targets()
            metrics = {}
            if count > 1:
                metrics = {f"validation_metrics/loss/{name}": loss for name, loss in means.items()}
                each = "  ".join(f"{name}: {loss:.4f}" for name, loss in means.items())
                logger.info("validation loss by stream:  %s", each)
            loss_sum = sum(means[name] * targets[name] for name in means)
            loss = loss_sum / sum(targets.values())
            self.metrics_processor.log_validation(loss=loss, step=step, extra_metrics=metrics)

    def _mean(self, model_parts: list[torch.nn.Module], step: int, name: str, limit: int) -> float:
        """The mean loss of a stream, which torchtitan's validation logs and does not return."""
        config: Any = self.config
        processor = self.metrics_processor
        logged: list[float] = []
        recorder: Any = types.SimpleNamespace(
            ntokens_since_last_log=0, log_validation=lambda loss, step: logged.append(loss)
        )
        batches: Any = self._passes[name]
        self.dl_config, self.config = batches, replace(config, steps=limit)
        self.metrics_processor = recorder
        try:
            super().validate(model_parts, step)
        except ZeroDivisionError:
            what = f'validation stream "{name}"' if len(self._passes) > 1 else "the validation set"
            raise MosaicDataError(
                f"{what} has no target to predict; check its streams, and that their rows hold at "
                "least two tokens"
            ) from None
        finally:
            self.config, self.metrics_processor = config, processor
        processor.ntokens_since_last_log += recorder.ntokens_since_last_log
        return logged[0]


class _StreamPass:
    """Stands for a loader's configuration, which torchtitan builds in each validation.

    Args:
        loader: Gives the batches of a stream.
        parallel_dims: The layout.
        micro_batches: Batches of a step.
    """

    def __init__(self, loader: Any, parallel_dims: ParallelDims, micro_batches: int):
        self._loader = loader
        self._parallel_dims = parallel_dims
        self._micro_batches = micro_batches
        self._targets = 0

    def build(self, **_: Any) -> Iterable[Batch]:
        """Batches from the stream's beginning."""
        self._targets = 0
        return self._batches()

    def targets(self) -> int:
        """Targets in the batches taken since the last call of `build`, over all ranks.

        All ranks call it together.
        """
        own = torch.tensor(self._targets)
        return int(_reduced(own, self._parallel_dims, torch.distributed.ReduceOp.SUM))

    def _batches(self) -> Iterator[Batch]:
        """Batches, equally many on each rank and a multiple of a step's micro-batches.

        Those that are added are the last one again with every label ignored.
        """
        loader = self._loader
        uneven = loader.uneven_batches and loader.dp_world_size > 1
        batches, last, given = iter(loader), None, 0
        while True:
            batch = next(batches, None)
            some_left = batch is not None
            if uneven:
                flag = torch.tensor(int(some_left))
                how = torch.distributed.ReduceOp.MAX
                some_left = bool(_reduced(flag, self._parallel_dims, how))
            if not some_left and given % self._micro_batches == 0:
                return
            if batch is None:
                assert last is not None
                batch = dict(last[0]), torch.full_like(last[1], IGNORE_INDEX)
            # The Validator replaces what the dictionary holds.
            last = dict(batch[0]), batch[1]
            given += 1
            self._targets += int((batch[1] != IGNORE_INDEX).sum())
            yield batch


@contextmanager
def _kept_buffers(model_parts: list[torch.nn.Module]) -> Iterator[None]:
    """Give every buffer its values back.

    Mixture-of-experts layers count the tokens of each expert in every forward pass, and the next
    optimizer step moves the experts' biases by those counts.
    """
    kept = [(buffer, buffer.clone()) for part in model_parts for buffer in part.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in kept:
                buffer.copy_(values)


@contextmanager
def _stopped_training_clock(processor: MetricsProcessor) -> Iterator[None]:
    """Count tokens and time for the validation alone, then go on counting the training's."""
    tokens, seconds = processor.ntokens_since_last_log, perf_counter() - processor.time_last_log
    processor.ntokens_since_last_log, processor.time_last_log = 0, perf_counter()
    try:
        yield
    finally:
        processor.ntokens_since_last_log = tokens
        processor.time_last_log = perf_counter() - seconds


class _Replaceable(Configurable.Config, metaclass=ABCMeta):
    """Every configuration that `use_mosaic` replaces; a virtual base class.

    An override names one class as its target, and is one function; this one replaces four parts.
    """


for _config in (BaseTokenizer, BaseDataLoader, MetricsProcessor, BaseValidator):
    _Replaceable.register(_config.Config)


def use_mosaic(
    config: Configurable.Config, *, config_file: str | None = None, **given: Any
) -> Configurable.Config:
    """Put Mosaic data into any configuration.

    For `--override.imports 'mosaic_titan.use_mosaic={"config_file": "data.toml"}'`. torchtitan's
    override mechanism calls it for tokenizer, dataloader, metrics and validator.

    Args:
        config: The part that is replaced.
        config_file: A TOML file with `[mosaic_dataloader]`, `[mosaic_tokenizer]` and
            `[mosaic_validation_dataloader]`.
        given: The same sections as JSON, over those of the file; or `streams` alone.

    Raises:
        MosaicDataError: A section, key or type is wrong; one line.
    """
    _report_mistakes_in_one_line()
    hints = typing.get_type_hints(MosaicDataLoader.Config, include_extras=True)
    left_out = {"dataset", "dataset_path", "infinite", "_owner"}
    options = {name: hint for name, hint in hints.items() if name not in left_out}
    found = sections.read(config_file, given, options)
    if isinstance(config, BaseTokenizer.Config):
        return MosaicTokenizer.Config(**found.get(sections.TOKENIZER, {}))
    if isinstance(config, BaseDataLoader.Config):
        return MosaicDataLoader.Config(**found.get(sections.TRAINING, {}))
    if isinstance(config, MetricsProcessor.Config):
        return derive(config, MosaicMetricsProcessor.Config)
    if sections.VALIDATION in found:
        loader = MosaicDataLoader.Config(**found[sections.VALIDATION])
        return derive(config, MosaicValidator.Config, dataloader=loader)
    if getattr(config, "enable", False):
        raise MosaicDataError(
            f"validator.enable is set, and there is no data for it; add [{sections.VALIDATION}]"
        )
    return config


# By this name users list it.
use_mosaic.__module__ = "mosaic_titan"
override(
    target=_Replaceable,
    fqns=["tokenizer", "dataloader", "metrics", "validator"],
    description="MosaicML Streaming data",
)(use_mosaic)


def _report_mistakes_in_one_line() -> None:
    """Print an uncaught `MosaicDataError` as one line: its message says what to change.

    torchtitan's command lets every error end in a traceback.
    """
    hook = sys.excepthook
    if getattr(hook, "mosaic", False):
        return

    def one_line(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, MosaicDataError):
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            hook(kind, error, trace)

    one_line.mosaic = True  # type: ignore[attr-defined]
    sys.excepthook = one_line
