"""From a row of a data set to a checked RGB image: the one place where image files are decoded.

The header is read first, and nothing is decoded that claims more pixels than allowed, or that would have more when its
short side is scaled to the model's. What comes out is what a person sees: the first frame, upright by its EXIF
orientation, transparency on white, 16-bit scaled to 8.

Memory: decoding takes at most `BYTES_PER_PIXEL` for every pixel. Images above `LARGE` pixels, before or after scaling,
are decoded and used one at a time, so that a run needs no more than one largest image and `LARGE` pixels for every
thread. A machine that has less than that raises MemoryError, which is no fault of the image.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import PIL
from PIL import Image, ImageOps

from mma.cache import Status
from mma.pipeline.datasets.base import Pixels
from mma.pipeline.embedding.settings import MAX_PIXELS

LARGE = 16_000_000  # pixels
ORDINARY = 16  # long side to short side: pictures up to this are scaled whatever max_pixels says
BYTES_PER_PIXEL = 20  # at most, measured over formats and modes (tests/pipeline/embedding/test_images.py)
DECODER = f"pillow {PIL.__version__}, upright, transparency on white"  # part of the fingerprint: it decides pixels
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # and no other: some run programs, or read files

_one_large = threading.Lock()


class BadImage(Exception):
    """A row without a usable image: a Status, and the reason in words."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@contextmanager
def own_bound() -> Iterator[None]:
    """Inside this block `decode`'s bound on pixels holds in place of Pillow's own, and Pillow gives no warning.

    Pillow has one bound for the whole process, and it counts what is cropped too. It is put back afterwards.
    """
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # what is wrong with a file is its status
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def scaled_pixels(width: int, height: int, side: int) -> int:
    """Pixels of a picture whose short side is scaled to `side`, as CLIP's preprocessing does before it crops."""
    return side * side * max(width, height) // max(1, min(width, height))


def decode(data: bytes | Pixels, max_pixels: int = MAX_PIXELS, side: int = 0) -> Image.Image:
    """An RGB image from encoded bytes or from pixels [H, W, 3], for a model of this input `side` (0: not scaled).

    Raises BadImage for whatever is wrong with it, and MemoryError.
    """
    with decoded(data, max_pixels, side) as image:
        return image


@contextmanager
def decoded(data: bytes | Pixels, max_pixels: int = MAX_PIXELS, side: int = 0) -> Iterator[Image.Image]:
    """As `decode`, for as long as the block lasts: one large image at a time."""
    if isinstance(data, np.ndarray):
        yield Image.fromarray(data)
        return
    try:
        opened = _open(data, max_pixels, side)
    except (BadImage, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(Status.TOO_LARGE, f"more pixels than allowed ({error})") from error
    except PIL.UnidentifiedImageError as error:
        raise BadImage(Status.UNREADABLE, "not an image file that can be read") from error
    except Exception as error:  # as below
        raise _unreadable(error) from error
    large = max(opened.width * opened.height, scaled_pixels(*opened.size, side)) > LARGE
    with opened, _one_large if large else nullcontext():
        try:
            image = _to_rgb(_upright(opened))
        except (BadImage, MemoryError):
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
            raise _unreadable(error) from error
        yield image


def _open(data: bytes, max_pixels: int, side: int) -> Image.Image:
    if not data:
        raise BadImage(Status.UNREADABLE, "the file is empty")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > max_pixels:
        raise BadImage(
            Status.TOO_LARGE,
            f"{image.width} x {image.height} pixels; at most {max_pixels:,} are decoded (max_pixels)",
        )
    scaled = scaled_pixels(*image.size, side)
    if scaled > max(max_pixels, ORDINARY * side * side):
        raise BadImage(
            Status.TOO_LARGE,
            f"{image.width} x {image.height} pixels, {scaled:,} when its short side is {side}; at most {max_pixels:,} "
            "are made (max_pixels)",
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    with suppress(Exception):  # EXIF that cannot be read says nothing of the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadImage(Status.UNREADABLE, "floating-point pixels, which have no agreed white")
    if image.mode.startswith("I"):  # 16 bits a pixel, or 32 with 16 used
        return _from_16_bits(image)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image)
    clear = image.info.get("transparency")
    eight = ((grey.clip(0, 65535).astype(np.uint32) * 255 + 32895) >> 16).astype(np.uint8)  # x / 257, rounded
    if isinstance(clear, int):
        eight[grey == clear] = 255
    return Image.fromarray(eight).convert("RGB")


def _unreadable(error: Exception) -> BadImage:
    lines = str(error).splitlines() or [""]
    return BadImage(Status.UNREADABLE, f"{type(error).__name__}: {lines[0]}"[:200])
