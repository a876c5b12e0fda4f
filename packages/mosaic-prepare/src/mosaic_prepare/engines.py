"""Engines that work on the units: processes of this machine, or a Ray cluster."""

import itertools
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare.job import UnitJob
from mosaic_prepare.opening import reason
from mosaic_prepare.units import WorkUnit

logger = logging.getLogger("mosaic_prepare")

# Units submitted for each process: one that it works on and one that waits for it.
_AHEAD = 2
# Times that Ray repeats a unit whose machine or process was lost.
_RETRIES = 5
_SECONDS_TO_CONNECT = 10.0

Done = tuple[WorkUnit, dict[str, Any]]


def run_in_processes(job: UnitJob, units: Sequence[WorkUnit], processes: int) -> Iterator[Done]:
    """Work on units in processes of this machine."""
    if processes == 1 or len(units) < 2:
        for unit in units:
            yield unit, job(unit)
        return
    # Not "fork": this process has threads. The server loads the libraries once for all.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mosaic_prepare.shards", "tokenizers"])
    pool = ProcessPoolExecutor(
        min(processes, len(units)), context, initializer=_start_worker, initargs=(job,)
    )
    waiting = iter(units)
    pending: dict[Future[dict[str, Any]], WorkUnit] = {}
    try:
        while True:
            for unit in itertools.islice(waiting, _AHEAD * processes - len(pending)):
                with _without_main():
                    pending[pool.submit(_work, unit)] = unit
            if not pending:
                break
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                unit = pending.pop(future)
                yield unit, future.result()
    except BaseException as error:
        # The results of the other workers would not be used.
        for process in list(pool._processes.values()):
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise MosaicDataError(
                "prepare: a worker process was killed; if the system did it for want of memory, "
                "use fewer processes or a smaller max_document_bytes, and run the same command "
                "again to resume"
            ) from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def available_cores() -> int:
    """Cores that this process may use, by its affinity and its control group's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


@contextmanager
def _without_main() -> Iterator[None]:
    """Start processes that do not import the caller's script, which may lack a `__main__` guard."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


_job: UnitJob


def _start_worker(job: UnitJob) -> None:
    global _job
    _job = job
    # One process, one core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Ctrl-C reaches every process of a terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A parent that is killed cannot end its workers.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _work(unit: WorkUnit) -> dict[str, Any]:
    return _job(unit)


def run_on_ray(job: UnitJob, units: Sequence[WorkUnit], address: str | None) -> Iterator[Done]:
    """Work on units in the processes of a Ray cluster; units of lost machines are repeated."""
    # Otherwise Ray starts its workers through `uv run` too, and uploads the current directory.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise MosaicDataError(
            'prepare: engine = "ray" needs Ray; install mosaic-prepare[ray]'
        ) from error
    started = not ray.is_initialized()
    if started:
        try:
            host, _, port = (address or "").partition(":")
            if port.isdigit():
                # Ray itself would try for minutes.
                socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            raise MosaicDataError(
                f"prepare: there is no Ray cluster at {address!r} ({reason(error)}); correct "
                f"address, or leave it out"
            ) from error
    try:
        yield from _on_cluster(ray, job, units)
    finally:
        if started:
            ray.shutdown()


def _on_cluster(ray: Any, job: UnitJob, units: Sequence[WorkUnit]) -> Iterator[Done]:
    work = ray.remote(num_cpus=1, max_retries=_RETRIES)(_work_on_ray)
    shared = ray.put(job)
    waiting = iter(units)
    pending: dict[Any, WorkUnit] = {}
    while True:
        # Machines come and go.
        cores = int(ray.cluster_resources().get("CPU", 1))
        for unit in itertools.islice(waiting, max(_AHEAD * cores - len(pending), 0)):
            pending[work.remote(shared, unit)] = unit
        if not pending:
            return
        for future in ray.wait(list(pending))[0]:
            unit = pending.pop(future)
            try:
                note = ray.get(future)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                raise MosaicDataError(
                    f"prepare: Ray lost the process or machine of a unit {_RETRIES + 1} times "
                    f"({reason(error)}); make sure that its machines have enough memory, and "
                    f"run the same command again to resume"
                ) from error
            if unit.name not in job.output.notes([unit.name]):
                raise MosaicDataError(
                    f"prepare: a machine of the Ray cluster has written {job.output.name} where "
                    f"this one cannot see it; use a directory that all of them share, or an object "
                    f"store"
                )
            yield unit, note


def _work_on_ray(job: UnitJob, unit: WorkUnit) -> dict[str, Any]:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return job(unit)
