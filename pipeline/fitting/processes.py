"""Call a function on many things in worker processes that never outlive this one.

A worker ends when its parent does, however that ends; it takes no notice of the signals by which a person stops a
command (its parent, which does, ends it), so that it says nothing about them. A pipe joins it with its parent, and no
queue or feeder thread: there is nothing to wait for at the end.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from mma.pipeline.errors import WorkError

JOIN_SECONDS = 1.0  # to be gone after a kill
HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
SPAWN = multiprocessing.get_context("spawn")  # a forked torch may hang

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Died:
    """In place of an answer: the process ended while it had the item."""

    code: int | None  # its exit code; below 0 the number of the signal

    def __str__(self) -> str:
        if self.code == -9:
            return "its process died (killed; out of memory?)"
        return f"its process died ({_ending(self.code)})"


@dataclass
class _Worker(Generic[Item]):
    process: BaseProcess
    pipe: Connection
    ready: bool = False  # whether it has started; before, its end is not for what it was given
    item: Item | None = None


def each(
    run: Callable[[Item], Answer], items: Iterable[Item], count: int
) -> Generator[tuple[Item, Answer | Died], None, None]:
    """Items with their answers, as they come, from at most `count` processes that are started as they are needed.

    An item is taken from `items` when a process is free for it. A process that dies is replaced, and its item is
    yielded with a `Died`. Close the iterator to end the processes. `run` is a function of a module, and raises nothing.
    Raises WorkError where processes cannot be started.
    """
    waiting = iter(items)
    workers: list[_Worker[Item]] = []
    try:
        while _give(run, waiting, workers, count):
            done: list[tuple[Item, Answer | Died]] = []
            pipes = {worker.pipe: worker for worker in workers if worker.item is not None}
            for pipe in wait(list(pipes)):
                worker = pipes[pipe]  # type: ignore[index]
                try:
                    answer = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    died = Died(_end(worker))
                    if not worker.ready and died.code is not None and died.code >= 0:
                        raise WorkError(f"worker processes cannot be started: {died}; `workers=1` needs none") from None
                    done.append((_item(worker), died))
                    continue
                if worker.ready:
                    done.append((_item(worker), answer))
                    worker.item = None
                worker.ready = True
            _give(run, waiting, workers, count)  # before what is done is looked at
            yield from done
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            _end(worker)


def _give(
    run: Callable[[Item], Answer], waiting: Iterator[Item], workers: list[_Worker[Item]], count: int
) -> list[_Worker[Item]]:
    """Give every free process an item, starting those that lack; the processes that have one."""
    while True:
        free = next((worker for worker in workers if worker.item is None), None)
        if free is None and len(workers) >= count:
            break
        try:
            item = next(waiting)
        except StopIteration:
            break
        worker = free or _start(run, workers)
        worker.item = item
        with suppress(OSError):
            worker.pipe.send(item)
    return [worker for worker in workers if worker.item is not None]


def _start(run: Callable[[Any], Any], workers: list[_Worker[Item]]) -> _Worker[Item]:
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
    with _signals_held():
        process.start()
        worker: _Worker[Item] = _Worker(process, ours)
        workers.append(worker)
    theirs.close()
    with suppress(OSError):  # it is dead, which reading from it will tell
        ours.send(run)
    return worker


def _end(worker: _Worker[Item]) -> int | None:
    worker.pipe.close()
    worker.process.join(JOIN_SECONDS)
    return worker.process.exitcode


def _item(worker: _Worker[Item]) -> Item:
    assert worker.item is not None
    return worker.item


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


@contextmanager
def _signals_held() -> Iterator[None]:
    """Signals that come within are delivered at the end, so that no process is started and then lost; and a process
    that is started within never sees any.
    """
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():  # where Python delivers them, whatever thread has them
        before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in HELD}
    resource_tracker.ensure_running()  # now, since that lets signals through again
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        for number in came:
            signal.raise_signal(number)


def _serve(pipe: Connection) -> None:
    """A worker's life."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _die_first()
    try:
        run = pipe.recv()  # here, since it imports what it needs
        pipe.send(None)  # ready
        while True:
            pipe.send(run(pipe.recv()))
    except (EOFError, OSError):  # the parent is gone
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        wait([parent.sentinel])
    os._exit(1)


def _die_first() -> None:
    """Where memory runs out, Linux ends the worker, whose cell it was, and not the process that keeps the books."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return
