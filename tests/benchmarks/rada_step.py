"""How long a training step of RAda takes beside the plain form, and what it holds in memory at C = 1000.

    python tests/benchmarks/rada_step.py            # B = 32, C = 51, D = 512
    python tests/benchmarks/rada_step.py --mkl      # the same without oneDNN
    python tests/benchmarks/rada_step.py --memory   # B = 32, C = 1000: peak memory of the process after one step
    python tests/benchmarks/rada_step.py --candidates 16 --classes 196   # a step among the nearest classes; 0: all

A step of the plain form multiplies B C tokens by a D x D matrix 13 times: six forward, six for the gradients of the
weights, one for that of the output's input. The rational query, the keys, the values and the output need 9 of them
whatever is shared, so with all three queries sharing wins 13 / 9 = 1.44 where these products dominate. What is beyond
that is oneDNN's rate over MKL's, which keeps to AVX2 on processors that are not Intel's.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from mma.adapters import Support, linear, unit
from mma.adapters.plain.rada import PlainRAda
from mma.adapters.rada import RAda


def problem(images: int, classes: int, dim: int = 512) -> Support:
    torch.manual_seed(0)
    image, text = unit(torch.randn(images, dim)), unit(torch.randn(classes, dim))
    return Support(image, torch.randint(classes, (images,)), text, 100.0)


class Stepper:
    """An adapter and its optimiser."""

    def __init__(self, adapter: PlainRAda, support: Support) -> None:
        torch.manual_seed(0)
        adapter.start(support)
        self.adapter, self.support = adapter, support
        self.optimizer = adapter.optimizer(adapter.recipe)

    def step(self) -> tuple[float, float]:
        """One step: seconds on the wall, and of all processors."""
        wall, processor = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        self.adapter.loss(self.support.image, self.support.text, self.support.label).backward()
        self.optimizer.step()
        return time.perf_counter() - wall, time.process_time() - processor


def peak_mib() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


FORMS = (lambda queries: PlainRAda(queries=queries), lambda queries: RAda(queries=queries, candidates=None))


def compare(queries: str, support: Support, rounds: int) -> str:
    """Best processor time of both forms, taken in turns: what other work on the machine disturbs least."""
    forms = [Stepper(form(queries), support) for form in FORMS]
    times = [[form.step()[1] for form in forms] for _ in range(rounds)]
    plain, lean = (min(column) for column in zip(*times, strict=True))
    return f"{queries:22s} {plain * 1e3:8.1f} {lean * 1e3:8.1f} {plain / lean:6.2f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--classes", type=int, default=51)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--mkl", action="store_true", help="both forms by MKL")
    parser.add_argument("--candidates", type=int, help="classes that an image attends among; 0: all")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    linear.ONEDNN = linear.ONEDNN and not arguments.mkl
    if arguments.memory:
        seconds, _ = Stepper(RAda(candidates=None), problem(32, 1000)).step()
        print(f"B = 32, C = 1000: {seconds:.1f} s a step, peak {peak_mib() / 2**10:.2f} GiB of the process")
        return
    print(f"B = {arguments.images}, C = {arguments.classes}, D = 512, {arguments.threads} threads")
    if arguments.candidates is not None:
        support, before = problem(arguments.images, arguments.classes), peak_mib()
        form = Stepper(RAda(candidates=arguments.candidates or None), support)
        processor = min(form.step()[1] for _ in range(arguments.rounds))
        among, held = arguments.candidates or "all", peak_mib() - before
        print(f"K = {among}: {processor * 1e3:.1f} processor ms a step, +{held:.0f} MiB")
        return
    print(f"{'queries':22s} {'plain':>8s} {'lean':>8s} {'ratio':>6s}  (processor ms a step)")
    for queries in ("image", "text", "image+text", "rational", "image+text+rational"):
        print(compare(queries, problem(arguments.images, arguments.classes), arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
