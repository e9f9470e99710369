"""The command in a process of its own that starts at once: forked from a process that has imported everything."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = (
    "mma.pipeline.cli.demo",
    "mma.pipeline.cli.main",
    "mma.pipeline.fitting.ablate",
    "mma.pipeline.reports.grid_tables",
    "mma.pipeline.reports.live",
    "open_clip",
    "scipy.special",
    "torch._dynamo",  # which the first step of an optimiser imports
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(IMPORTED))

SCRIPT = """
import os, sys
os.environ.clear()
os.environ.update({env!r})
os.chdir({cwd!r})
for file, stream in (({out!r}, 1), ({err!r}, 2)):
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
sys.argv = {words!r}
{first}
from mma.pipeline.cli.main import main
main()
"""


def start(words: Sequence[object], cwd: Path, out: Path, err: Path, first: str = "", **env: str) -> BaseProcess:
    """`mma WORDS` in a folder, after the line of Python `first`; what it prints goes to two files."""
    about = {"cwd": str(cwd), "out": str(out), "err": str(err), "words": ["mma", *map(str, words)]}
    script = SCRIPT.format(env={**os.environ, **env}, first=first, **about)
    process = _context.Process(target=exec, args=(script, {"__name__": "forked"}))
    process.start()
    return process
