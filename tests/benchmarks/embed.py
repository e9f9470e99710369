"""How near `mma embed` is to the bare model, and the cache to plain files.

    python tests/benchmarks/embed.py                    600 JPEGs of 512 pixels, ViT-B-32 with random weights
    python tests/benchmarks/embed.py --photos FOLDER    a folder of images of one's own
    python tests/benchmarks/embed.py --storage          100,000 x 512 float16 written and read, beside numpy
    python tests/benchmarks/embed.py --memory 1000000   the peak of a process that writes and reads so many rows

The bare model sees ready tensors, at torch's own number of threads and at the batch size that is fastest here. It and
`mma embed` (decoding, hashing and writing included) take turns; a ratio is of neighbours.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file

from mma.cache import CacheWriter, Header, ManifestSplit, open_cache
from mma.pipeline.embedding import encode
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.embedding.plan import EmbedPlan, make_plan
from mma.pipeline.embedding.run import run_plan
from mma.pipeline.embedding.settings import EmbedSettings

ROWS, DIM, CHUNK = 100_000, 512, 1024
PARTS = ((encode, "_prepare", "decoding"), (FrozenClip, "see", "the model"), (CacheWriter, "write", "writing"))


def make_photos(folder: Path, count: int, side: int = 512) -> None:
    """JPEGs of coarse colours under fine grain: about as large, and as dear to decode, as photographs of that size."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        grain = rng.integers(-12, 13, (side, side, 1))
        Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number}.jpg", quality=90
        )


def bare(clip: FrozenClip, pictures: torch.Tensor, batch: int) -> float:
    """Images a second of the model alone."""
    start = time.perf_counter()
    with torch.inference_mode():
        for part in pictures.split(batch):
            clip.model.encode_image(part)  # type: ignore[operator]
    return len(pictures) / (time.perf_counter() - start)


class Spent:
    """Processor seconds of the parts of stage one, over all threads; put on and taken off the functions themselves."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def __enter__(self) -> Spent:
        self.true = [(where, name, getattr(where, name)) for where, name, _ in PARTS]
        for (where, name, true), (_, _, part) in zip(self.true, PARTS, strict=True):
            setattr(where, name, self.counted(true, part))
        return self

    def __exit__(self, *_: object) -> None:
        for where, name, true in self.true:
            setattr(where, name, true)

    def counted(self, true: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            start = time.thread_time()
            try:
                return true(*given)
            finally:
                self.seconds[part] += time.thread_time() - start

        return call


def embed(plan: EmbedPlan) -> float:
    """Images a second of `mma embed` from its plan to a published cache."""
    rows, start = sum(plan.header.rows.values()), time.perf_counter()
    run_plan(plan, Console(file=io.StringIO()))
    return rows / (time.perf_counter() - start)


def compare(photos: Path, weights: Path, folder: Path, model: str, rounds: int) -> None:
    """Print the rates of each round, their ratio, and where the processors' time went."""
    console = Console(file=io.StringIO())

    def plan(number: int) -> EmbedPlan:
        return make_plan(
            EmbedSettings(
                dataset=str(photos),
                unlabelled=True,
                model=model,
                pretrained=str(weights),
                cache=folder / f"{number}.zarr",
            ),
            console,
        )

    plans = [plan(number) for number in range(rounds + 1)]
    clip = plans[0].clip
    some = torch.cat([torch.randn(8, *first_picture(plans[0]).shape) for _ in range(8)])  # [64, 3, H, W]
    bare(clip, some, 16)
    rates = {batch: bare(clip, some, batch) for batch in (8, 16, 32, 64)}
    batch = max(rates, key=lambda size: rates[size])
    print(f"{model}, {torch.get_num_threads()} threads, bare at {batch} images a batch")
    pictures, ratios = some.repeat(4, 1, 1, 1), []
    embed(plans[-1])  # warms up files and memory
    before, began, spent = processor(), time.perf_counter(), Counter[str]()
    for each in plans[:-1]:
        alone = bare(clip, pictures, batch)
        before, began = processor(), time.perf_counter()
        with Spent() as parts:
            whole = embed(each)
        spent.update(parts.seconds)
        spent.update({"in all": processor() - before, "clock": time.perf_counter() - began})
        ratios.append(whole / alone)
        print(f"bare {alone:6.2f} images/s   mma embed {whole:6.2f} images/s   ratio {ratios[-1]:.3f}")
    print(f"median ratio {statistics.median(ratios):.3f}")
    for _, _, part in PARTS:
        print(f"{part:>12} {spent[part] / spent['in all']:6.1%} of the processors' time")
    print(f"{'waiting':>12} {1 - spent['in all'] / spent['clock'] / torch.get_num_threads():6.1%} of the cores")


def first_picture(plan: EmbedPlan) -> torch.Tensor:
    """What the model sees of an image [3, H, W]."""
    blank: torch.Tensor = plan.clip.preprocess(Image.new("RGB", (8, 8)))  # type: ignore[assignment]
    return blank


def processor() -> float:
    """Processor seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def header(rows: int) -> Header:
    """Of a cache of one split."""
    return Header(
        dataset="rows",
        classnames=["a"],
        rows={"train": rows},
        dim=DIM,
        views={"train": 1},
        dtype="float16",
        chunk=CHUNK,
        batch=1,
        logit_scale=100.0,
        fingerprint={"model": "rows"},
        notes=[],
        source={},
    )


def blocks(rows: int) -> Iterator[NDArray[np.float16]]:
    """Unit embeddings [CHUNK, 1, D], other ones in each chunk."""
    block = np.random.default_rng(0).standard_normal((CHUNK, 1, DIM), np.float32)
    block /= np.linalg.norm(block, axis=-1, keepdims=True)
    for start in range(0, rows, CHUNK):
        yield np.roll(block, start // CHUNK, axis=0)[: rows - start].astype(np.float16)


def write(path: Path, rows: int) -> None:
    """A finished cache of so many rows."""
    manifest = {"train": ManifestSplit(np.zeros(rows, np.int32), [f"{row}.jpg" for row in range(rows)])}
    with CacheWriter.create(path, header(rows), manifest) as writer:
        for chunk, block in zip(writer.pending(), blocks(rows), strict=True):
            writer.write(chunk, block, [], np.zeros((len(block), 32), np.uint8))
        writer.write_text("default", ["{}"], np.ones((1, 1, DIM), np.float32))
        writer.finish()


def storage(folder: Path, rounds: int) -> None:
    """Print MB/s of writing and reading, beside numpy's own files."""
    plain, mb, times = np.concatenate(list(blocks(ROWS))), ROWS * DIM * 2 / 1e6, Counter[str]()

    def timed(what: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        took = time.perf_counter() - start
        times[what] = min(took, times[what] or took)

    for number in range(rounds):
        cache, file = folder / f"{number}.zarr", folder / f"{number}.npy"
        timed("mma writes", lambda cache=cache: write(cache, ROWS))  # type: ignore[misc]
        timed("np.save", lambda file=file: np.save(file, plain))  # type: ignore[misc]
        timed("mma reads", lambda cache=cache: open_cache(cache).split("train"))  # type: ignore[misc]
        timed("np.load", lambda file=file: np.load(file))  # type: ignore[misc]
        timed("SHA-256", lambda: hashlib.sha256(plain))
    for what, seconds in times.items():
        print(f"{what:>12} {seconds * 1000:7.0f} ms {mb / seconds:8.0f} MB/s")
    print(f"reading over hashing: {(times['mma reads'] - times['SHA-256']) * 1000:.0f} ms")


def memory(folder: Path, rows: int) -> None:
    """Print the peak of this process before, after writing, and after reading."""

    def peak() -> str:
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB"

    start = peak()
    write(folder / "rows.zarr", rows)
    written = peak()
    open_cache(folder / "rows.zarr").split("train")
    print(f"{rows:,} rows ({rows * DIM * 2 / 2**20:,.0f} MB): {start} at the start, {written} written, {peak()} read")


def main() -> None:
    """Run what is asked for, in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--storage", action="store_true")
    parser.add_argument("--memory", type=int)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.storage:
            storage(folder, chosen.rounds)
        elif chosen.memory:
            memory(folder, chosen.memory)
        else:
            photos, weights = chosen.photos or folder / "photos", folder / "random.safetensors"
            if not chosen.photos:
                make_photos(photos, chosen.images)
            save_file(open_clip.create_model(chosen.model).state_dict(), weights)
            compare(photos, weights, folder, chosen.model, chosen.rounds)


if __name__ == "__main__":
    main()
