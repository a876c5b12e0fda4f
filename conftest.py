"""How hypothesis draws its examples: by the profile `tests`, or `soak` for long runs.

`tests` draws the same examples in each run, so that a change is judged by what it changed and not
by what was drawn. `--hypothesis-profile soak`, which `nox -s soak` sets, draws at random, and
twenty times as many.

A test whose examples are expensive asks for a part of `settings().max_examples`, so that it
follows the profile.
"""

import contextlib
import gc
from typing import Any

# The trainers of `nox -s examples` have an environment without it.
with contextlib.suppress(ModuleNotFoundError):
    from hypothesis import HealthCheck, settings

    common: dict[str, Any] = {
        # Other processes share the cores, so that any example may take long.
        "deadline": None,
        # Examples do no harm to fixtures, which are folders and data sets; and on a machine
        # that has other work, drawing examples may be slow as well.
        "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    }
    settings.register_profile("tests", derandomize=True, **common)
    settings.register_profile("soak", derandomize=False, max_examples=2000, **common)
    settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collection: no test leaves it behind."""
    # Walking through the objects of torch, torchtitan and transformers again and again took 4 % of
    # the tests' time.
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Leave nothing out at the interpreter's end: libraries take that for a leak and say so."""
    gc.unfreeze()
