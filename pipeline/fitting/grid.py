"""Run cells: in this process, in worker processes, or on a dask.distributed cluster; the results are the same bits.

Every fit computes with one torch thread, and what it draws comes from its own seed, so neither the number of workers
nor the order of work changes a number; the cores are used by running fits side by side. Each finished cell is recorded
at once: an interruption loses the cells in flight, and the same command continues.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
)
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mma.adapters import AdapterError, adapter_class, reference
from mma.adapters.blame import blamed
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.fitting.cells import Cell, Setting, code_of
from mma.pipeline.fitting.features import Address, Loader
from mma.pipeline.fitting.results import Failure, Result
from mma.pipeline.fitting.run import run_cell

CONNECT_SECONDS = 10
POOLS = 2  # of several workers that are tried before each cell gets a pool of its own
SWITCH_SECONDS = 0.0005  # a fit's operations are that short: with Python's 5 ms, fits in threads wait for each other

Outcome = Result | Failure


@dataclass(frozen=True)
class Work:
    """One cell to run, as it is sent to a worker."""

    cell: Cell
    addresses: tuple[Address, ...]  # of the data it is fitted on, then of its targets
    keep_weights: bool = False


def run_works(
    works: Sequence[Work], loader: Loader, *, workers: int = 1, scheduler: str | None = None
) -> Iterator[Outcome]:
    """Outcomes as they come. `workers` processes (1: this process), or the cluster at `scheduler` ("local": one here).

    A cell that fails is an outcome like another. A worker that dies has its cells run again; a cell whose workers keep
    dying is a failure. `loader` lets go of a cache when the last of its cells is done. Raises WorkError where the
    cluster goes away.
    """
    threads, switching = torch.get_num_threads(), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    uses = Counter(address.cache for work in works for address in work.addresses)
    try:
        for outcome, work in _outcomes(works, loader, workers, scheduler):
            for address in work.addresses:
                uses[address.cache] -= 1
                if not uses[address.cache]:
                    loader.drop(address.cache)
            yield outcome
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(switching)


def _outcomes(
    works: Sequence[Work], loader: Loader, workers: int, scheduler: str | None
) -> Iterator[tuple[Outcome, Work]]:
    left = {work.cell.id: work for work in works}
    for _ in range(POOLS):
        if left:  # a process pool ends with the first of its workers that dies
            with _executor(workers, scheduler) as pool:
                own = loader if isinstance(pool, ThreadPoolExecutor) else None
                for outcome in _completed(pool, list(left.values()), own):
                    yield outcome, left.pop(outcome.cell.id)
    for work in left.values():  # one of them kills its workers: each in a pool of its own
        with _processes(1) as pool:
            yield next(_completed(pool, [work]), Failure(work.cell, "its worker process died (memory?)")), work


def run_work(work: Work, loader: Loader | None = None) -> Outcome:
    """Run one cell wherever this is; what goes wrong in it becomes a Failure. A worker process has its own loader."""
    global _of_worker
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)  # sums are made in one order everywhere
    try:
        planned = [work.cell.setting.data, *work.cell.setting.targets]
        data = [(loader or _of_worker).features(address) for address in work.addresses]
        if loader is None and [features.data for features in data] != planned:
            _of_worker = Loader()  # a worker that outlives a grid may hold what a cache was before
            data = [_of_worker.features(address) for address in work.addresses]
        for features, plan, address in zip(data, planned, work.addresses, strict=True):
            if features.data != plan:
                raise WorkError(f"the cache at {address.cache} is another one than the grid was planned on")
        _check_code(work.cell.setting)
        return run_cell(work.cell, data, keep_weights=work.keep_weights)
    except Exception as error:  # one cell's trouble stops no other
        return _failure(work.cell, error)


_of_worker = Loader()


def _completed(pool: Executor, works: Sequence[Work], loader: Loader | None = None) -> Iterator[Outcome]:
    """Outcomes as they come, until all are there or the pool breaks."""
    futures = {pool.submit(run_work, work, loader): work for work in works}
    try:
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except BrokenExecutor:
                return
            except CancelledError as error:
                raise WorkError(
                    "the scheduler is gone; what is recorded is kept: run the same command again"
                ) from error
            except Exception as error:  # a cluster gave a cell up
                outcome = _failure(futures[future].cell, error)
            yield outcome
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[Executor]:
    if scheduler is not None:
        with _cluster(scheduler, workers) as client:
            yield client.get_executor(pure=False)
    elif workers > 1:
        with _processes(workers) as pool:
            yield pool
    else:
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="fit") as pool:
            yield pool


def _processes(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))  # a forked torch may hang


@contextmanager
def _cluster(scheduler: str, workers: int) -> Iterator[Any]:
    """A client of the dask cluster at an address, or of one started here for the while, on the loopback only."""
    import distributed

    client: Any = distributed.Client
    if scheduler == "local":
        count = workers if workers > 1 else os.cpu_count()
        local: Any = distributed.LocalCluster
        with (
            local(n_workers=count, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as cluster,
            client(cluster) as connected,
        ):
            yield connected
        return
    try:
        connected = client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TimeoutError) as error:
        raise UsageError(
            f"the scheduler {scheduler} does not answer ({type(error).__name__}): check --scheduler"
        ) from error
    with connected:
        yield connected


def _check_code(setting: Setting) -> None:
    """Refuse an adapter whose source is not what the grid was planned with. A worker may have run an older text of it.

    Raises WorkError.
    """
    if code_of(adapter_class(setting.adapter)) != setting.code:
        reference(setting.adapter)
        if code_of(adapter_class(setting.adapter)) != setting.code:
            raise WorkError(f"the source of {setting.adapter} is another one than the grid was planned with")


def _failure(cell: Cell, error: Exception) -> Failure:
    """A cell's error in one line, with the line of the adapter's author where it came from there; and its traceback."""
    try:
        where = blamed(error, adapter_class(cell.setting.adapter))
    except AdapterError:  # the adapter itself cannot be loaded here
        where = ""
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}{where}"
    return Failure(cell, reason, "".join(traceback.format_exception(error)))
