"""What `mma embed` can be told. Loads no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from mma.pipeline.errors import UsageError
from mma.pipeline.options import Option, checked, written

DATA, MODEL, VIEWS, PROMPTS, OUTPUT = "Data", "Model", "Views", "Prompts", "Where it goes"
USUAL_MODEL = "ViT-B-16"
SPLITS = ("train", "val", "test")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("fp32", "fp16", "bf16")
DTYPES = ("float16", "float32")
FINAL, PENULTIMATE = FEATURE_KINDS = ("final", "penultimate")
MAX_PIXELS = 89_478_485  # Pillow's own bound: a quarter of a gigabyte as RGB
MOST_VIEWS = 10_000
MOST_BATCH = 1_000_000
MOST_WORKERS = 1024
MOST_SHARDS = 1_000_000
LARGEST = 2**31 - 1  # of seeds, limits and counts of pixels


def read_failures(given: Any) -> str:
    """How many rows may fail, as it was said: a count, or a percentage. Raises UsageError."""
    text = str(given).strip()
    number, percent, rest = text.partition("%")
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = -1
    if rest or not 0 <= value <= (100 if percent else math.inf):
        raise UsageError(f"{written('max_failures', given)} is neither a count nor a percentage, such as 20 or 5%")
    return text


def read_shard(given: Any) -> str:
    """Which shard of how many, as it was said: "2/4". Raises UsageError."""
    index, _, count = str(given).strip().partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count) <= MOST_SHARDS):
        raise UsageError(f"{written('shard', given)} is no shard: the first of four is 1/4, the last 4/4")
    return f"{int(index)}/{int(count)}"


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """What `mma embed` can be told. Raises UsageError for a value that cannot be; see checks.py for what needs more."""

    dataset: Annotated[str | None, Option("One of `mma datasets`; a folder, manifest, .tar shards, hf:NAME.", DATA)] = (
        None
    )
    root: Annotated[Path | None, Option("Where data sets, or a manifest's paths, lie.", DATA, shown="data")] = None
    download: Annotated[bool, Option("Fetch a published data set that is not there.", DATA)] = True
    limit: Annotated[
        int | None, Option("At most this many images per split, to try it out.", DATA, least=1, most=LARGEST)
    ] = None
    split_seed: Annotated[int, Option("Seed of the splits of a folder that has none.", DATA, least=0, most=LARGEST)] = 0
    follow_links: Annotated[bool, Option("Read images that are links out of their folder.", DATA)] = False
    unlabelled: Annotated[bool, Option("Images without classes: a folder, an image, a manifest, shards.", DATA)] = False
    max_pixels: Annotated[int, Option("Images of more pixels are not decoded.", DATA, least=1, most=LARGEST)] = (
        MAX_PIXELS
    )
    max_failures: Annotated[
        str, Option("End when more images fail: a count, or a share.", DATA, read=read_failures)
    ] = "50%"

    model: Annotated[str | None, Option("An open_clip model, local-dir:FOLDER, or tiny.", MODEL, shown=USUAL_MODEL)] = (
        None  # with text_only, the cache's own
    )
    pretrained: Annotated[str, Option("An open_clip tag, or a checkpoint file.", MODEL)] = "openai"
    quick_gelu: Annotated[
        bool | None, Option("Whether a checkpoint file needs QuickGELU.", MODEL, shown="the model's, or the tag's")
    ] = None
    precision: Annotated[str, Option("Number type of the towers.", MODEL, choices=PRECISIONS)] = "fp32"
    features: Annotated[
        str,
        Option(
            "final: embeddings; penultimate: also what the towers' last layer makes them of.",
            MODEL,
            choices=FEATURE_KINDS,
        ),
    ] = FINAL
    device: Annotated[str, Option("Where the model runs.", MODEL, choices=DEVICES)] = "auto"
    batch_size: Annotated[
        int | None,
        Option("Images the model sees at once.", MODEL, least=1, most=MOST_BATCH, shown="16, 256 on CUDA"),
    ] = None
    workers: Annotated[
        int | None, Option("Threads that decode.", MODEL, least=1, most=MOST_WORKERS, shown="one per core")
    ] = None

    views: Annotated[int, Option("Per image: the model's own, then random crops.", VIEWS, least=1, most=MOST_VIEWS)] = 1
    view_splits: Annotated[
        tuple[str, ...], Option("Splits that have several views.", VIEWS, choices=SPLITS, split=True)
    ] = ("train",)
    view_seed: Annotated[int, Option("Seed of crops, flips and grain.", VIEWS, least=0, most=LARGEST)] = 0
    image_noise: Annotated[
        tuple[str, ...], Option("Noisy views, such as gaussian0.1,blur2,jpeg10.", VIEWS, split=True)
    ] = ()
    noise_splits: Annotated[
        tuple[str, ...], Option("Splits that have noisy views.", VIEWS, choices=SPLITS, split=True)
    ] = ("test",)

    prompts: Annotated[str, Option("Sets: default, photo, simple, ensemble, typo10, NAME=FILE.", PROMPTS)] = "default"
    templates: Annotated[
        tuple[str, ...], Option("'a photo of a {}.', or a file of them. May be repeated.", PROMPTS)
    ] = ()
    text_only: Annotated[bool, Option("Add prompt sets to a cache that is there.", PROMPTS)] = False

    cache: Annotated[str | None, Option("The cache to write: a path, or s3://.", OUTPUT, shown="cache/<name>.zarr")] = (
        None
    )
    dtype: Annotated[str, Option("Number type of stored image embeddings.", OUTPUT, choices=DTYPES)] = "float16"
    update: Annotated[bool, Option("Embed what has changed, or is new.", OUTPUT)] = False
    shard: Annotated[
        str | None, Option("One of several runs that share the work: 1/4 to 4/4.", OUTPUT, read=read_shard)
    ] = None

    def __post_init__(self) -> None:
        checked(self)


def failure_limit(text: str, rows: int) -> int:
    """How many rows may fail, by `max_failures`: a count, or that percentage of all `rows`."""
    number, percent, _ = text.partition("%")
    return int(rows * float(number) / 100) if percent else int(number)
