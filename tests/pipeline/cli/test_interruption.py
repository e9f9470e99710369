from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ...benchmarks.interruptions import attempt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number", "after"),
    [("ablate", signal.SIGINT, 0.0), ("ablate", signal.SIGTERM, 3.0), ("fit", signal.SIGHUP, 1.0)],
)
def test_an_interruption_ends_in_time_with_one_line_and_leaves_nothing(
    command: str, number: signal.Signals, after: float, small_cache: Path
) -> None:
    assert attempt(str(small_cache), command, number, after, whole_group=True) == "right"


def test_what_takes_no_notice_of_an_interruption_is_ended() -> None:
    script = (
        "import time\nfrom mma.pipeline.cli.interruption import interruptible\n"
        "with interruptible():\n    print('now', flush=True)\n"
        "    while True:\n        try: time.sleep(1)\n        except BaseException: pass\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert said.splitlines()[-1].startswith("interrupted: what is done is kept")
    assert time.monotonic() - began < 3
