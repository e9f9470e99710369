"""Noise in images, as views: how a classifier does on pictures that are grainy, out of focus or compressed.

| noise | level |
|---|---|
| `gaussian0.1` | standard deviation of grain, in shares of the range of a pixel |
| `blur2` | standard deviation of a Gaussian blur, in pixels |
| `jpeg10` | JPEG quality, 1 to 95 |

Noise is put on the picture as the model sees it, resized and cropped, as by Hendrycks and Dietterich (2019), so that a
level means the same for every data set. Grain depends on (seed, split, row, view) alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.random import Generator
from PIL import Image
from torchvision.transforms.v2 import functional

from mma.pipeline.errors import UsageError

KINDS = {"gaussian": (0.0, 1.0), "blur": (0.0, 100.0), "jpeg": (1, 95)}  # level: from, to
REACH = 3  # standard deviations that the kernel of a blur covers, to either side

Noise = Callable[[Image.Image, Generator], Image.Image]


def read_noise(words: Sequence[str], size: int | Sequence[int]) -> Mapping[str, Noise]:
    """Noises by name, for a model of this input side (or height and width). UsageError for one that is not known."""
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])
    return {word: _on_model_view(_noise(word), width, height) for word in dict.fromkeys(words)}


def as_the_model_sees_it(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture resized to fill width x height, and cropped at its centre: the evaluation transform of CLIP."""
    scale = max(width / image.width, height / image.height)
    across, down = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (across - width) // 2, (down - height) // 2
    resized = image.resize((across, down), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + width, top + height))


def _on_model_view(noise: Noise, width: int, height: int) -> Noise:
    return lambda image, rng: noise(as_the_model_sees_it(image, width, height), rng)


def _noise(word: str) -> Noise:
    found = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", word)
    kind, level = (found[1], float(found[2])) if found else (word, 0.0)
    if kind not in KINDS:
        raise UsageError(f"unknown image noise {word!r}: gaussian0.1, blur2 or jpeg10, with a level of your own")
    low, high = KINDS[kind]
    if not (low < level <= high or (kind == "jpeg" and level == low)) or (kind == "jpeg" and level != int(level)):
        whole = "a whole number " if kind == "jpeg" else ""
        raise UsageError(f"image noise {word!r}: the level of {kind} is {whole}from {low:g} to {high:g}")
    return {"gaussian": _grain, "blur": _blur, "jpeg": _jpeg}[kind](level)


def _grain(deviation: float) -> Noise:
    def noise(image: Image.Image, rng: Generator) -> Image.Image:
        pixels = np.asarray(image, np.float32)
        grain = rng.standard_normal(pixels.shape, np.float32) * np.float32(255 * deviation)
        return Image.fromarray((pixels + grain).round().clip(0, 255).astype(np.uint8))

    return noise


def _blur(deviation: float) -> Noise:
    side = 2 * max(1, round(REACH * deviation)) + 1

    def noise(image: Image.Image, rng: Generator) -> Image.Image:
        fits = [min(side, 2 * ((length - 1) // 2) + 1) for length in image.size]  # a kernel within the picture
        blurred: Image.Image = functional.gaussian_blur(image, kernel_size=fits, sigma=[deviation, deviation])
        return blurred

    return noise


def _jpeg(quality: float) -> Noise:
    def noise(image: Image.Image, rng: Generator) -> Image.Image:
        compressed: Image.Image = functional.jpeg(image, int(quality))
        return compressed

    return noise
