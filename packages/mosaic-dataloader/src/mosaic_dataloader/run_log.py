"""What the log says of how a run begins or resumes."""

import logging

from mosaic_dataloader.run import RunState
from mosaic_dataloader.sources.common import log_token_means
from mosaic_dataloader.state.stages import PresentStage

logger = logging.getLogger(__name__)


def log_begin(run: RunState, stage: PresentStage | None, skip_samples: int, *, new: bool) -> None:
    """Say how an iteration begins, the first one of a run that is ``new`` or was resumed."""
    source, position = run.source, run.progress.samples_seen
    log_token_means(source.dataset, source.order)
    if new and skip_samples:
        epoch, place = source.sequence.locate(skip_samples)
        logger.info(
            "skip_samples: the run begins at sample %d of epoch %d, %d samples into the order",
            place,
            epoch,
            skip_samples,
        )
    if new:
        _log_left_out(run)
    if stage is not None:
        logger.info(
            "the run %s at %s, in %s: %s",
            "resumes" if position > source.first_position else "begins",
            source.describe(position),
            stage,
            stage.mixture,
        )


def log_resumed(run: RunState, skip_samples: int) -> None:
    """Say what of the options has no effect, now that a state is loaded."""
    before = run.source.order.skipped
    if skip_samples or before:
        logger.log(
            logging.INFO if skip_samples == before else logging.WARNING,
            "the run resumes at %s, where its checkpoint was written; skip_samples = %d has no "
            "effect: it began with skip_samples = %d",
            run.source.describe(run.progress.samples_seen),
            skip_samples,
            before,
        )
    _log_left_out(run)


def _log_left_out(run: RunState) -> None:
    """Say which positions ``skip`` leaves out, and which it names too late."""
    source, position = run.source, run.progress.samples_seen
    skip = source.order.skip
    trained_from = position - source.rows(run.progress) - skip.before(position)
    for start, stop in source.dataset.skip:
        if stop > position:
            begin = max(start, position)
            logger.info(
                "skip: from %s on, %d are left out of training",
                source.describe(begin),
                stop - begin,
            )
        begin, end = max(start, trained_from), min(stop, position)
        late = end - begin - (skip.before(end) - skip.before(begin))
        if late > 0:
            logger.warning(
                'skip = "%d:%d" comes too late for %d positions: the run resumes at %s and has '
                "trained on them; resume from an earlier checkpoint to leave them out",
                start,
                stop,
                late,
                source.describe(position),
            )
