"""The rank that logs the loss under a V-shaped pipeline schedule.

Such a schedule gives the first ranks both the first and the last stage, and with it the loss.
Upstream knows that of "ZBVZeroBubble" in this spelling only. With "DualPipeV", and with either name
in lower case, which torch takes too, metrics are written by a rank of the middle stages, whose loss
is the placeholder -1, and a warning asks for the console output of that rank. This can go once
upstream looks for the rank that has the last stage.
"""

from typing import Any

ANSWERS = (
    "components/metrics.py:209: "
    'if job_config.parallelism.pipeline_parallel_schedule == "ZBVZeroBubble":',
    "components/metrics.py:248: "
    'if job_config.parallelism.pipeline_parallel_schedule == "ZBVZeroBubble":',
)


def is_v_shaped(schedule: str) -> bool:
    """Whether a pipeline schedule ends on the rank that it begins on."""
    return schedule.lower() in ("zbvzerobubble", "dualpipev")


def loss_rank(config: Any, world_size: int) -> int:
    """The rank that logs the loss: the first one that has the last pipeline stage."""
    stages: int = config.parallelism.pipeline_parallel_degree
    if stages <= 1 or is_v_shaped(config.parallelism.pipeline_parallel_schedule):
        return 0
    return (world_size // stages) * (stages - 1)


def log_where_the_loss_is() -> None:
    """Have metrics written, and the console asked for, where the loss is."""
    from torchtitan import train
    from torchtitan.components import metrics

    ask: Any = metrics.ensure_pp_loss_visible

    def metrics_rank(parallel_dims: Any, job_config: Any) -> int:
        return loss_rank(job_config, parallel_dims.world_size)

    def ensure_pp_loss_visible(parallel_dims: Any, job_config: Any, color: Any) -> None:
        if not is_v_shaped(job_config.parallelism.pipeline_parallel_schedule):
            ask(parallel_dims, job_config, color)

    metrics._get_metrics_rank = metrics_rank
    # The Trainer has copied the name.
    metrics.ensure_pp_loss_visible = ensure_pp_loss_visible
    train.ensure_pp_loss_visible = ensure_pp_loss_visible  # type: ignore[attr-defined]
