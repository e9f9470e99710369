"""Caches whose class names are partly wrong: python tests/benchmarks/wrong_names.py FEATURES.npz FOLDER 10 20

What the noise `wrong20` of `mma embed` does (pipeline/embedding/prompt_noise.py), for features whose text encoder is
not at hand: the text rows of that share of the classes, in percent, change places. Writes FOLDER/<stem>_wrong20.zarr.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from mma.cache.importer import import_npz
from mma.pipeline.embedding.prompt_noise import misnamed


def main(features: Path, folder: Path, shares: list[int]) -> None:
    """Write one cache for each share."""
    with np.load(features, allow_pickle=False) as stored:
        arrays = dict(stored)
    names = [str(name) for name in arrays["classnames"]]
    for share in shares:
        now = [names.index(name) for name in misnamed(names, share / 100)]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{features.stem}_wrong{share}.npz"
            np.savez(file, **{**arrays, "text": arrays["text"][now]})
            out = import_npz(file, folder / f"{file.stem}.zarr")
        print(f"{out}: {sum(at != i for i, at in enumerate(now))} of {len(names)} classes bear a wrong name")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(share) for share in sys.argv[3:]])
