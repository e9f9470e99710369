"""Run cells: in this process, in worker processes, or on a dask.distributed cluster; the results are the same bits.

Every fit computes with one torch thread, and what it draws comes from its own seed, so neither the number of workers
nor the order of work changes a number; the cores are used by running fits side by side. Each finished cell is recorded
at once: an interruption loses the cells in flight, and the same command continues.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch

from mma.adapters import AdapterError, adapter_class, reference
from mma.adapters.blame import blamed
from mma.pipeline.errors import UsageError, WorkError
from mma.pipeline.fitting.cells import Cell, Setting, code_of
from mma.pipeline.fitting.features import Address, Loader
from mma.pipeline.fitting.processes import Died, each
from mma.pipeline.fitting.results import Failure, Result
from mma.pipeline.fitting.run import run_cell
from mma.pipeline.options import written

CONNECT_SECONDS = 10
SWITCH_SECONDS = 0.0005  # a fit's operations are that short: with Python's 5 ms, fits in threads wait for each other

Outcome = Result | Failure


@dataclass(frozen=True)
class Work:
    """One cell to run, as it is sent to a worker."""

    cell: Cell
    addresses: tuple[Address, ...]  # of the data it is fitted on, then of its targets
    keep_weights: bool = False
    alone: bool = False  # after the others, in a process that runs nothing beside it: one that ran it has died


Take = Callable[[Work], bool]


def run_works(
    works: Sequence[Work],
    loader: Loader,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    take: Take = lambda work: True,
) -> Generator[Outcome, None, None]:
    """Outcomes as they come. `workers` processes (1: this process), or the cluster at `scheduler` ("local": one here).

    `take` is asked of each cell when it is about to be run; where it says no, the cell is left out. A cell that fails
    is an outcome like another. A cell whose worker dies is run again at the end, alone, and is a failure if that dies
    too. `loader` lets go of a cache when the last of its cells is done. Close the iterator to end the processes.
    Raises WorkError where the cluster goes away.
    """
    threads, switching = torch.get_num_threads(), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    uses = Counter(address.cache for work in works for address in work.addresses)

    def let_go(work: Work) -> None:
        for address in work.addresses:
            uses[address.cache] -= 1
            if not uses[address.cache]:
                loader.drop(address.cache)

    def taken(work: Work) -> bool:
        if not take(work):
            let_go(work)
            return False
        return True

    try:
        with closing(_outcomes(works, loader, workers, scheduler, taken)) as outcomes:
            for outcome, work in outcomes:
                let_go(work)
                yield outcome
    finally:
        torch.set_num_threads(threads)
        sys.setswitchinterval(switching)


def _outcomes(
    works: Sequence[Work], loader: Loader, workers: int, scheduler: str | None, take: Take
) -> Generator[tuple[Outcome, Work], None, None]:
    together = [work for work in works if not work.alone or scheduler is not None]
    taken = (work for work in together if take(work))  # each when it is about to be run
    if scheduler is not None:
        with _cluster(scheduler, workers) as client:
            yield from _completed(client.get_executor(pure=False), list(taken))
        died = []
    elif workers > 1:
        died = yield from _on_processes(taken, workers)
    else:
        yield from _on_threads(taken, loader)
        died = []
    suspects = (work for work in works if work.alone and scheduler is None and take(work))
    with closing(each(run_work, chain(died, suspects), 1)) as pairs:
        for work, outcome in pairs:
            yield Failure(work.cell, f"{outcome}, twice") if isinstance(outcome, Died) else outcome, work


def _on_processes(works: Iterator[Work], workers: int) -> Generator[tuple[Outcome, Work], None, list[Work]]:
    """Outcomes as they come; returns what worker processes died of, or beside."""
    died = []
    with closing(each(run_work, works, workers)) as pairs:
        for work, outcome in pairs:
            if isinstance(outcome, Died):
                died.append(work)
            else:
                yield outcome, work
    return died


def _on_threads(works: Iterator[Work], loader: Loader) -> Iterator[tuple[Outcome, Work]]:
    """Outcomes as they come. What is closed before its end waits for no fit."""
    count = os.cpu_count() or 1
    pool = ThreadPoolExecutor(count, thread_name_prefix="fit")
    running: dict[Future[Outcome], Work] = {}
    try:
        while True:
            for work in islice(works, count - len(running)):
                running[pool.submit(run_work, work, loader)] = work
            if not running:
                return
            done = wait(running, return_when=FIRST_COMPLETED).done
            pairs = [(future.result(), running.pop(future)) for future in done]
            for work in islice(works, count - len(running)):  # before what is done is looked at
                running[pool.submit(run_work, work, loader)] = work
            yield from pairs
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


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
        result = run_cell(work.cell, data, keep_weights=work.keep_weights)
        if not all(math.isfinite(value) for value in result.metrics.values()):
            raise WorkError("a metric is not a finite number")
        return result
    except Exception as error:  # one cell's trouble stops no other
        return _failure(work.cell, error)


_of_worker = Loader()


def _completed(pool: Executor, works: Sequence[Work]) -> Iterator[tuple[Outcome, Work]]:
    """Outcomes of a cluster as they come. Raises WorkError where it goes away."""
    futures = {pool.submit(run_work, work): work for work in works}
    try:
        for future in as_completed(futures):
            try:
                outcome = future.result()
            except CancelledError as error:
                raise WorkError(
                    "the scheduler is gone; what is recorded is kept: run the same command again"
                ) from error
            except Exception as error:  # a cluster gave a cell up
                outcome = _failure(futures[future].cell, error)
            yield outcome, futures[future]
    finally:
        for future in futures:
            future.cancel()


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
            f"{written('scheduler', scheduler)} does not answer ({type(error).__name__}): look whether it runs"
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
