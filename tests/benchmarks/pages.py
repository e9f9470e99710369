"""Make the tables of a page anew: run the commands that it shows, and put what they print under them.

    python tests/benchmarks/pages.py FOLDER docs/ablations.md docs/fit.md     FOLDER has the caches that the pages name

A command is a block of sh that is followed by a block of text. A figure in the docs is thus what its command prints.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

SHOWN = re.compile(r"```sh\n((?:mma |python )[^`]*?)```\n\n```text\n(.*?)```", re.DOTALL)
WIDTH = "200"  # columns: no row of a table wraps


def made_anew(page: str, folder: Path) -> str:
    """The page with the output of its commands, run one after the other in `folder`. Raises where a command fails."""

    def run(shown: re.Match[str]) -> str:
        command = shown[1]
        print(command.strip(), file=sys.stderr)
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=folder,
            env={**os.environ, "COLUMNS": WIDTH},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
        return f"```sh\n{command}```\n\n```text\n" + "\n".join(lines) + "\n```"

    return SHOWN.sub(run, page)


def main(folder: str, *pages: str) -> None:
    """Rewrite pages."""
    for page in map(Path, pages):
        page.write_text(made_anew(page.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
