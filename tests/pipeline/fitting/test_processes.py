from __future__ import annotations

import signal
import subprocess
import sys
import time

from mma.pipeline.fitting.processes import Died, each

from ...benchmarks.interruptions import members


def test_an_item_has_its_answer_and_one_whose_process_dies_is_named() -> None:
    items = [signal.SIGCHLD, signal.SIGKILL, signal.SIGWINCH, signal.SIGURG]  # of these, one ends a process
    answers = dict(each(signal.raise_signal, items, 2))
    assert answers.pop(signal.SIGKILL) == Died(-signal.SIGKILL)
    assert answers == dict.fromkeys([signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG])


def test_processes_take_no_notice_of_the_signals_that_stop_a_command() -> None:
    items = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    assert dict(each(signal.raise_signal, items, 1)) == dict.fromkeys(items)


def test_no_process_is_left_when_the_iterator_is_closed() -> None:
    script = (
        "import time; from contextlib import closing; from mma.pipeline.fitting.processes import each\n"
        "if __name__ == '__main__':\n"
        "    with closing(each(time.sleep, [0, 60, 60], 2)) as pairs:\n"
        "        print(next(pairs), flush=True); input()\n"
        "    print('closed', flush=True); input()\n"
    )
    with subprocess.Popen(  # in a session of its own: what else these tests start is not counted
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        assert parent.stdout.readline() == "(0, None)\n"
        assert len(members(parent.pid)) >= 3
        print(file=parent.stdin, flush=True)
        assert parent.stdout.readline() == "closed\n"
        assert len(members(parent.pid)) <= 2, "itself, and Python's own resource tracker"
        print(file=parent.stdin, flush=True)


def test_a_killed_parent_leaves_no_process() -> None:
    script = (
        "import time; from mma.pipeline.fitting.processes import each\n"
        "if __name__ == '__main__':\n"
        "    for pair in each(time.sleep, [0, 0, 60, 60], 2): print(pair, flush=True)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout
    assert parent.stderr
    assert b"(0, None)" in parent.stdout.readline()
    assert len(members(parent.pid)) >= 3
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while (left := members(parent.pid)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
    assert parent.stderr.read() == b""
