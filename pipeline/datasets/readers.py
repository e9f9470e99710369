"""The annotations of the published data sets: which image is in which official split, and of which class.

A reader takes where the data set lies and returns, for every split, paths below the images' folder and the class as the
data set writes it (a key of the entry's `classes`). They are the files' own formats, a few lines each, so that looking
at a data set loads no torch and works in CoOp's layout as in torchvision's, whose classes fix their folders' names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mma.pipeline.datasets.catalog import CatalogEntry
from mma.pipeline.datasets.folder import image_paths
from mma.pipeline.datasets.names import shown_path
from mma.pipeline.errors import UsageError
from mma.pipeline.regular_files import open_regular, read_text

ClassedPaths = list[tuple[str, str]]  # [N] path below the images, class
Splits = dict[str, ClassedPaths]


@dataclass(frozen=True)
class DatasetPlace:
    """Where a data set lies."""

    entry: CatalogEntry
    base: Path  # annotations and the split file
    images: Path  # images, somewhere below


def oxford_pets(place: DatasetPlace) -> Splits:
    """annotations/<split>.txt: `Abyssinian_100 1 1 1`, an image and the number of its breed."""

    def rows(split: str) -> ClassedPaths:
        images = [line.split(" ")[0] for line in _lines(place.base / "annotations" / f"{split}.txt")]
        return [(f"{image}.jpg", image.rpartition("_")[0].lower()) for image in images]

    return {"train": rows("trainval"), "test": rows("test")}


def stanford_cars(place: DatasetPlace) -> Splits:
    """MATLAB structs of bounding box, class (from 1) and file name."""
    keys = list(place.entry.classes)

    def rows(folder: str, file: str) -> ClassedPaths:
        annotations = np.atleast_1d(_mat(place.base / file, "annotations"))
        return [(f"{folder}/{row['fname']}", keys[int(row["class"]) - 1]) for row in annotations]

    train, test = "devkit/cars_train_annos.mat", "cars_test_annos_withlabels.mat"
    return {"train": rows("cars_train", train), "test": rows("cars_test", test)}


def oxford_flowers(place: DatasetPlace) -> Splits:
    """imagelabels.mat: the class (from 1) of image i; setid.mat: the images (from 1) of each split."""
    labels = np.atleast_1d(_mat(place.base / "imagelabels.mat", "labels"))

    def rows(ids: str) -> ClassedPaths:
        images = np.atleast_1d(_mat(place.base / "setid.mat", ids))
        return [(f"image_{image:05d}.jpg", str(labels[image - 1])) for image in images]

    return {"train": rows("trnid"), "val": rows("valid"), "test": rows("tstid")}


def food101(place: DatasetPlace) -> Splits:
    """meta/<split>.txt: `apple_pie/1005649`."""

    def rows(split: str) -> ClassedPaths:
        return [(f"{line}.jpg", line.split("/")[0]) for line in _lines(place.base / "meta" / f"{split}.txt")]

    return {"train": rows("train"), "test": rows("test")}


def fgvc_aircraft(place: DatasetPlace) -> Splits:
    """images_variant_<split>.txt: `1025794 707-320`."""

    def rows(split: str) -> ClassedPaths:
        lines = [line.split(" ", 1) for line in _lines(place.base / f"images_variant_{split}.txt")]
        return [(f"{image}.jpg", variant) for image, variant in lines]

    return {split: rows(split) for split in ("train", "val", "test")}


def dtd(place: DatasetPlace) -> Splits:
    """labels/<split>1.txt, the first of ten partitions: `banded/banded_0002.jpg`."""

    def rows(split: str) -> ClassedPaths:
        return [(line, line.split("/")[0]) for line in _lines(place.base / "labels" / f"{split}1.txt")]

    return {split: rows(split) for split in ("train", "val", "test")}


def sun397(place: DatasetPlace) -> Splits:
    """Training_01.txt, Testing_01.txt, the first of ten partitions: `/a/abbey/sun_aaalbzqrimafwbiv.jpg`."""
    if not (place.base / "Training_01.txt").is_file():
        return class_folders(place)

    def rows(file: str) -> ClassedPaths:
        paths = [line.removeprefix("/") for line in _lines(place.base / file)]
        return [(path, path.rpartition("/")[0]) for path in paths]

    return {"train": rows("Training_01.txt"), "test": rows("Testing_01.txt")}


def ucf101(place: DatasetPlace) -> Splits:
    """ucfTrainTestlist/<split>list01.txt: `ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1`; the frame is a .jpg."""
    if not (place.base / "ucfTrainTestlist" / "trainlist01.txt").is_file():
        return class_folders(place)

    def row(line: str) -> tuple[str, str]:
        action, file = line.split(" ")[0].split("/")
        folder = "_".join(re.findall("[A-Z][^A-Z]*", action))
        return f"{folder}/{file.removesuffix('.avi')}.jpg", folder

    def rows(split: str) -> ClassedPaths:
        return [row(line) for line in _lines(place.base / "ucfTrainTestlist" / f"{split}list01.txt")]

    return {"train": rows("train"), "test": rows("test")}


def class_folders(place: DatasetPlace) -> Splits:
    """One folder per class, below one folder per split; one split named "all" where the data set has none."""

    def rows(folder: str) -> ClassedPaths:
        prefix = "" if folder == "." else f"{folder}/"
        return [(path, key) for key in place.entry.classes for path in image_paths(place.images, prefix + key)]

    return {split: rows(folder) for split, folder in (place.entry.split_folders or {"all": "."}).items()}


READERS: Mapping[str, Callable[[DatasetPlace], Splits]] = {
    "class-folders": class_folders,
    "dtd": dtd,
    "fgvc_aircraft": fgvc_aircraft,
    "food101": food101,
    "oxford_flowers": oxford_flowers,
    "oxford_pets": oxford_pets,
    "stanford_cars": stanford_cars,
    "sun397": sun397,
    "ucf101": ucf101,
}


def read_annotations(place: DatasetPlace) -> Splits:
    """The official splits of a data set. UsageError where its annotations are damaged."""
    try:
        return READERS[place.entry.reader](place)
    except UsageError:
        raise
    except Exception as error:  # the formats' readers raise many kinds
        raise UsageError(
            f"the annotations of {place.entry.name} in {place.base} are damaged ({type(error).__name__}: {error})"
        ) from error


def _lines(file: Path) -> list[str]:
    return [shown_path(line) for raw in read_text(file).splitlines() if (line := raw.strip())]


def _mat(file: Path, name: str) -> Any:
    from scipy.io import loadmat

    with open_regular(file) as stream:
        return loadmat(stream, squeeze_me=True)[name]
