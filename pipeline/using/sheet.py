"""A contact sheet: images of a cache with two lines of text each, to be looked at instead of read about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mma.cache import open_cache
from mma.cache.durable import write_whole
from mma.pipeline.datasets.folder import FileSplit
from mma.pipeline.embedding.images import BadImage, decode
from mma.pipeline.errors import UsageError

ACROSS = 8  # images in a row of the sheet
SIDE, LINE, GAP = 160, 16, 8  # pixels: of an image, of a line of text, between
LINES = 2


@dataclass(frozen=True)
class SheetImage:
    """An image of a sheet."""

    path: str  # below the root
    lines: tuple[str, str]


def images_root(cache: str, given: Path | None, sheet: Path) -> Path:
    """The folder below which a cache's images are. UsageError where it is not known, or not there."""
    source = open_cache(cache).header.source or {}
    root = given or Path(source.get("root") or source.get("dataset") or "")
    if not str(root) or root == Path() or not root.is_dir():
        raise UsageError(f"`sheet={sheet}` needs the images of {cache}: say where they are, `root=FOLDER`")
    return root


def make_sheet(images: Sequence[SheetImage], root: Path) -> bytes:
    """A PNG: images with their lines below. One that cannot be read is an empty frame."""
    files = FileSplit(root, [shown.path for shown in images], np.full(len(images), -1, np.int32), False)
    down = -(-len(images) // ACROSS)
    cell = SIDE + GAP, SIDE + LINES * LINE + GAP
    sheet = Image.new("RGB", (GAP + min(ACROSS, len(images)) * cell[0], GAP + down * cell[1]), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 4)
    for at, shown in enumerate(images):
        x, y = GAP + at % ACROSS * cell[0], GAP + at // ACROSS * cell[1]
        try:
            image = decode(files.read(at), side=SIDE)
        except (BadImage, OSError):
            draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline="gray")
        else:
            image.thumbnail((SIDE, SIDE))
            sheet.paste(image, (x + (SIDE - image.width) // 2, y + (SIDE - image.height) // 2))
        for number, line in enumerate(shown.lines):
            draw.text((x, y + SIDE + number * LINE), _fitting(line, font), fill="black", font=font)
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    return stream.getvalue()


def write_sheet(images: Sequence[SheetImage], root: Path, out: Path) -> None:
    """The sheet as a file, whole or not at all."""
    write_whole(out, make_sheet(images, root))


def _fitting(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a line as fits below an image."""
    if font.getlength(line) <= SIDE:
        return line
    while line and font.getlength(line + "...") > SIDE:
        line = line[:-1]
    return line + "..."
