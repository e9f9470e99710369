"""Views: the pictures that one image becomes before the model sees it.

View 0 is the model's own evaluation transform. The others are seeded augmentations, of train images unless other splits
are asked for, then the noises of a split (image_noise.py). They depend on (seed, split, row, view) alone: the order of
work, the number of threads and an interruption change nothing.

The default augmentation is CoOp's (Zhou et al., 2022, configs/trainers/CoOp/vit_b16.yaml), which Tip-Adapter and the
MMA authors train with: a random crop of 8 to 100 % of the area, 3:4 to 4:3, resized, and a flip half of the time.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from torch import Tensor

SCALE = (0.08, 1.0)  # of the area
RATIO = (3 / 4, 4 / 3)  # width to height
TRIES = 10
CROP_AND_FLIP = f"random crop {SCALE[0]:g}-{SCALE[1]:g} of the area, flip"

Augment = Callable[[Image.Image, Generator], Image.Image]


@dataclass(frozen=True)
class Views:
    """What an image becomes: view 0, then one view for every entry of `more`, in the splits that have them, then one
    for every noise of its split.
    """

    preprocess: Callable[[Image.Image], Tensor]  # the model's own: RGB image -> [3, H, W]
    more: Sequence[Augment] = ()
    splits: Sequence[str] = ("train",)  # that have `more`
    seed: int = 0
    noise: Mapping[str, Sequence[Augment]] = field(default_factory=dict)  # by split

    def of(self, split: str) -> int:
        """V of a split."""
        return 1 + len(self._beyond(split))

    def __call__(self, image: Image.Image, split: str, row: int) -> Tensor:
        """The views [V, 3, H, W] of the image at a row of a split."""
        views = [self.preprocess(image)]
        for number, change in enumerate(self._beyond(split), start=1):
            rng = np.random.default_rng([self.seed, zlib.crc32(split.encode()), row, number])
            views.append(self.preprocess(change(image, rng)))
        return torch.stack(views)

    def _beyond(self, split: str) -> Sequence[Augment]:
        return [*(self.more if split in self.splits else ()), *self.noise.get(split, ())]


def crop_and_flip(size: int | Sequence[int]) -> Augment:
    """The default augmentation, to pictures of `size`: the model's side, or (height, width)."""
    height, width = (size, size) if isinstance(size, int) else (size[0], size[-1])

    def augment(image: Image.Image, rng: Generator) -> Image.Image:
        picture = image.crop(crop_box(image.width, image.height, rng)).resize((width, height), Image.Resampling.BICUBIC)
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else picture

    return augment


def crop_box(width: int, height: int, rng: Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop, by the rule of torchvision's RandomResizedCrop.

    Area uniform in SCALE, log ratio uniform in RATIO; after TRIES crops that do not fit, the largest centred one that
    has a ratio in RATIO.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, max(1, round(height * RATIO[1])))
    down = min(height, max(1, round(width / RATIO[0])))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
