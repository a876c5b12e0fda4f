"""FSDP over gloo."""

import functools
from typing import Any


def parallelize_on_cpu(spec: Any) -> None:
    """Have a spec's FSDP modules reduce with plain sums. Changes the spec in place.

    FSDP folds a gradient's scale into the reduction (PREMUL_SUM), which gloo does not have. Set
    on the result of `parallelize_fn`, it also reaches the stages of a pipeline.

    Args:
        spec: Our own TrainSpec.
    """
    if not isinstance(spec.parallelize_fn, _Parallelize):
        spec.parallelize_fn = _Parallelize(spec.parallelize_fn)


class _Parallelize:
    """Calls the model's function, then sets the option on every FSDP module."""

    def __init__(self, parallelize: Any) -> None:
        self._parallelize = parallelize
        functools.update_wrapper(self, parallelize)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.distributed.fsdp import FSDPModule

        model = self._parallelize(*args, **kwargs)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
        return model
