"""An interruption ends a command: one line, the exit code that shells expect, within seconds, whatever it is doing.

Ctrl-C, SIGTERM and SIGHUP (a terminal that closes) are one thing: a KeyboardInterrupt in the main thread, by which
work leaves everything whole. What has not ended GRACE seconds later is ended from a thread of its own, which the
kernel's handler wakes: nothing that the main thread is in, and nothing that swallows the exception, can hold it up.
What is on the disk is whole at any moment, so that this loses no more than a kill would.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE = 2.0  # seconds to end by itself
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
LINE = b"interrupted: what is done is kept, and the same command continues\n"
SHOW_CURSOR = b"\x1b[?25h"  # a progress bar that was not let end has it hidden

_received: list[int] = []
_ending = threading.Lock()


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, a signal is a KeyboardInterrupt; once it has come, the process ends here or soon after, for certain."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    threading.Thread(target=_watch, args=(reading,), daemon=True, name="interruption").start()
    taken = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, _interrupt) for number in taken}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    except BaseException:
        if not _received:
            raise
    finally:
        if _received:  # also where what came of it is another error
            _end(_received[0])
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # once is enough: a second one must not disturb the ending
    _received.append(number)
    raise KeyboardInterrupt


def _watch(reading: int) -> None:
    while received := os.read(reading, 1):
        if received[0] in SIGNALS:
            time.sleep(GRACE)
            _end(received[0])
    os.close(reading)


def _end(number: int) -> None:
    """Say so, and end at once, waiting for no thread."""
    _ending.acquire()  # for good: the line is said once
    with suppress(OSError):  # the terminal may be gone
        os.write(2, (SHOW_CURSOR if os.isatty(2) else b"") + LINE)
    os._exit(128 + number)
