"""What a training step of the Multi-Modal Adapter costs, compact and dense: time, peak memory, distance to the floor.

    python tests/benchmarks/mma_step.py [--mask cross|pair|bias|none|within|all] [--steps 20]

A step is forward, backward and Adam at D = 512, heads 4, rank 32, width 128. Each case runs in a process of its own, so
that its peak resident memory is its own (what torch takes before any work is printed first). Times are the best of the
steps after a warm-up: on two shared cores, a neighbour stalls single steps by a hundred times their length.
The floor is the operations of the compact form's matrix products, forward and backward, over the rate that this machine
multiplies 2048 x 2048 float32 matrices at: what no arrangement of the same products can beat.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import get_args

import torch
from rich.console import Console
from rich.table import Table

from mma.adapters.base import Support, unit
from mma.adapters.mma import MultiModalAdapter
from mma.adapters.plain.mma import Mask, PlainMultiModalAdapter

DIM, HEADS, RANK, WIDTH, HIDDEN = 512, 4, 32, 128, 32
BOTH = [(256, 24), (256, 51), (256, 198), (32, 1000)]  # (B, C) of compact against dense
ALONE = [(256, 1000), (256, 10_000)]  # (B, C) that the dense form has no memory for
DENSE_STEPS = 3  # it takes seconds


def matrix_rate() -> float:
    """Operations a second (a multiplication and an addition are two), the best of several."""
    a = torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def operations(mask: Mask, images: int, prompts: int) -> float:
    """Of the matrix products of one step; going back costs two products for each, but one where an input is fixed."""
    tokens, pairs, basis, size = images + prompts, images * prompts, HIDDEN + 1, WIDTH // HEADS
    fixed = 2 * pairs * DIM  # <x, t>: no gradient at all
    once = 2 * tokens * DIM * (RANK + basis)  # down and basis: the embeddings' gradient is not wanted
    twice = 2 * tokens * RANK * HEADS * (2 * size + HIDDEN)  # queries, keys, values
    attention = HEADS * (size + HIDDEN)
    twice += 2 * attention * {"cross": pairs, "pair": 0, "within": prompts**2}.get(mask, pairs + prompts**2)
    twice += 2 * pairs * basis * 2  # <d, t> and one more form of the pairs
    if mask in ("bias", "none"):  # gates, hidden units from the gates, a'Ga and two forms
        twice += 2 * pairs * (HEADS * size + 2 * HEADS * HIDDEN + HIDDEN * HIDDEN + 2 * HIDDEN)
    return fixed + 2 * once + 3 * twice


def measure(kind: str, mask: Mask, images: int, prompts: int, steps: int) -> dict[str, float]:
    """Best seconds of a step and peak resident memory in bytes, in this process."""
    torch.manual_seed(0)
    image, text = unit(torch.randn(images, DIM)), unit(torch.randn(prompts, DIM))
    label = torch.randint(prompts, (images,))
    adapter = maker(kind)(mask=mask)
    adapter.start(Support(image, label, text, 100.0))
    optimizer = torch.optim.Adam(adapter.parameters(), lr=5e-3, weight_decay=1e-4)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        adapter.loss(image, text, label).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds[1:]), "bytes": peak()}


def maker(kind: str) -> type[PlainMultiModalAdapter]:
    """The class to measure."""
    return MultiModalAdapter if kind == "compact" else PlainMultiModalAdapter


def peak() -> int:
    """Peak resident memory of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def apart(*case: object) -> dict[str, float]:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--case", *map(str, case)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)  # type: ignore[no-any-return]


def table(mask: Mask, steps: int, rate: float) -> Table:
    """All cases of one mask."""
    out = Table(title=f"mask {mask}: a training step, D = {DIM}", title_justify="left")
    for column in ("B", "C", "compact ms", "dense ms", "times faster", "compact MB", "dense MB", "floor ms", "x floor"):
        out.add_column(column, justify="right")
    for images, prompts in BOTH + ALONE:
        compact = apart("compact", mask, images, prompts, 1 + steps * 1000 // (1000 + prompts))
        floor = operations(mask, images, prompts) / rate
        row = [f"{compact['seconds'] * 1e3:.1f}", "", "", f"{compact['bytes'] / 1e6:.0f}", ""]
        if (images, prompts) in BOTH:
            dense = apart("dense", mask, images, prompts, DENSE_STEPS)
            row[1:3] = f"{dense['seconds'] * 1e3:.0f}", f"{dense['seconds'] / compact['seconds']:.0f}"
            row[4] = f"{dense['bytes'] / 1e6:.0f}"
        out.add_row(str(images), str(prompts), *row, f"{floor * 1e3:.2f}", f"{compact['seconds'] / floor:.1f}")
    return out


def main() -> None:
    """Run every case and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mask", choices=[*get_args(Mask), "all"], default="cross")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of the smaller cases")
    parser.add_argument("--case", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        kind, mask, *sizes = options.case
        json.dump(measure(kind, mask, *map(int, sizes)), sys.stdout)
        return
    rate = matrix_rate()
    console = Console()
    console.print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rate / 1e9:.0f} Gflop/s float32,"
        f" {peak() / 1e6:.0f} MB resident before any work"
    )
    for mask in get_args(Mask) if options.mask == "all" else [options.mask]:
        console.print(table(mask, options.steps, rate))


if __name__ == "__main__":
    main()
