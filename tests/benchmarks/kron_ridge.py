"""How long kron-ridge takes to choose and solve, and what it holds in memory.

    python tests/benchmarks/kron_ridge.py                               # 1,000 classes x 16 shots, few-shot
    python tests/benchmarks/kron_ridge.py --classes 500 --new-classes   # its base half, choosing for new classes too
    python tests/benchmarks/kron_ridge.py --landmarks 512               # fewer rows span the kernel of images

The images are clusters on the sphere around a shared mean, with about the cosines of CLIP's.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from mma.adapters import Support, accuracy, fit, predict, unit, zero_shot_logits
from mma.adapters.kron_ridge import HyperParameters, KroneckerRidge


def problem(classes: int, shots: int, dim: int, *, new_classes: bool) -> tuple[Support, Support]:
    """A support, and as many rows to score."""
    draw = torch.Generator().manual_seed(0)

    def direction(*shape: int) -> torch.Tensor:
        return unit(torch.randn(*shape, dim, generator=draw))

    shared, centre = direction(), direction(classes)
    text = unit(direction() + 0.5 * unit(centre + 1.2 * direction(classes)))
    label = torch.arange(classes).repeat_interleave(shots)
    rows = [unit(1.5 * shared + centre[label] + 4 * direction(len(label))) for _ in range(2)]
    of_support, of_test = (Support(image, label, text, 100.0, new_classes=new_classes) for image in rows)
    return of_support, of_test


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--landmarks", type=int)
    parser.add_argument("--new-classes", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    support, test = problem(arguments.classes, arguments.shots, arguments.dim, new_classes=arguments.new_classes)
    adapter = KroneckerRidge(landmarks=arguments.landmarks)
    start, processor = time.perf_counter(), time.process_time()
    fit(adapter, support, adapter.recipe, seed=0)
    fitted, processor = time.perf_counter() - start, time.process_time() - processor
    start = time.perf_counter()
    logits = predict(adapter, test.image, test.text)
    predicted = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    zero_shot = accuracy(zero_shot_logits(test.image, test.text, 100.0), test.label)
    print(f"{arguments.classes} classes x {arguments.shots} shots, D = {arguments.dim}, {arguments.threads} threads")
    print(f"chosen and solved in {fitted:.1f} s ({processor:.1f} s of processors); peak {peak:.2f} GiB of the process")
    print(f"{len(test.label)} images scored in {predicted:.1f} s")
    print(f"accuracy {accuracy(logits, test.label):.4f}, zero-shot {zero_shot:.4f}")
    print(HyperParameters(*adapter.setting.tolist()))


if __name__ == "__main__":
    main()
