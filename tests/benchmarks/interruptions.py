"""Interrupt `mma ablate` and `mma fit` on worker processes at random moments, and count what goes wrong.

    python tests/benchmarks/interruptions.py CACHE [TRIES] [SEED] [fit|ablate]

A try is right where the command ends within three seconds, with one line about it, no traceback, the exit code of its
signal, and no process of its group left. Run by hand; tests/pipeline/cli/test_interruption.py has a sample.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("mma"))
LINE = "interrupted: what is done is kept"
GRIDS = {
    "ablate": ["adapter=mma,clip-adapter", "lam=0:1:0.05", "seed=0:100", "epochs=30", "--workers", "2"],
    "fit": ["--adapter", "mma,clip-adapter", "--seeds", "2000", "--epochs", "30", "--workers", "2"],
}
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def attempt(cache: str, command: str, number: signal.Signals, after: float, whole_group: bool) -> str:
    """One try, in a session of its own; what was wrong, or "right". `after`: seconds from the first line it prints."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [COMMAND, command, "--cache", cache, *GRIDS[command], "--device", "cpu", "--out", f"{folder}/runs"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_heed,
        )
        assert process.stderr
        store = Path(folder) / "runs/results.sqlite"
        while not store.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(after)
        if process.poll() is not None:
            return "ended before the signal"
        send = os.killpg if whole_group else os.kill
        began = time.monotonic()
        send(process.pid, number)
        try:
            _, said = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            left = [Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in members(process.pid)]
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"did not end: {left}"
        took = time.monotonic() - began
        alive = members(process.pid)
        if alive:
            time.sleep(1)
            alive = members(process.pid)
        if process.returncode != CODES[number]:
            return f"exit code {process.returncode}: {said[-300:]}"
        if said.count(LINE) != 1 or "Traceback" in said or "Error" in said:
            return f"said: {said[-2000:]}"
        if alive:
            os.killpg(process.pid, signal.SIGKILL)
            return f"left {len(alive)} processes"
        return "right" if took < 3 else f"took {took:.1f} s"


def _heed() -> None:
    for number in CODES:  # a shell's background process has some ignored
        signal.signal(number, signal.SIG_DFL)


def members(group: int) -> list[int]:
    """Living processes of a process group (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            rest = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(rest[2]) == group and rest[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def main() -> None:
    """Run the tries, and print a line for each that was wrong, and the counts."""
    cache, tries, seed, *commands = [*sys.argv[1:], *("200", "0")[len(sys.argv) - 2 :]]
    rng, counts = random.Random(int(seed)), Counter[str]()
    for turn in range(int(tries)):
        number, command = rng.choice(list(CODES)), rng.choice(commands or list(GRIDS))
        after, group = rng.uniform(0, 5), number is signal.SIGINT or rng.random() < 0.5
        outcome = attempt(cache, command, number, after, group)
        counts["right" if outcome == "right" else "wrong"] += 1
        if outcome != "right":
            print(f"{turn}: {command}, {number.name}{' to all' if group else ''} after {after:.2f} s: {outcome}")
        if turn % 10 == 9:
            print(f"{turn + 1} tries: {dict(counts)}", flush=True)


if __name__ == "__main__":
    main()
