"""Small copies of the published data sets in their true layouts: real JPEG files, real annotation formats."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mma.pipeline.datasets import entries
from mma.pipeline.datasets.catalog import CatalogEntry

Rows = list[tuple[str, int]]  # path below the images, label
Expected = dict[str, Rows]


def _jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


JPEGS = [_jpeg(seed) for seed in range(16)]


def write_images(folder: Path, paths: Iterable[str]) -> None:
    for number, path in enumerate(paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(JPEGS[number % len(JPEGS)])


def write_lines(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def split_every(rows: Rows, **shares: int) -> Expected:
    """Deal the rows of every class out to splits, so many to each: split_every(rows, train=2, test=1)."""
    order = [split for split, count in shares.items() for _ in range(count)]
    dealt: Expected = {split: [] for split in shares}
    seen: dict[int, int] = {}
    for path, label in rows:
        dealt[order[seen.get(label, 0) % len(order)]].append((path, label))
        seen[label] = seen.get(label, 0) + 1
    return dealt


def class_rows(entry: CatalogEntry, each: int, name: Callable[[str, int], str]) -> Rows:
    return [(name(key, number), label) for label, key in enumerate(entry.classes) for number in range(each)]


def food101(base: Path, entry: CatalogEntry) -> Expected:
    rows = split_every(class_rows(entry, 3, lambda key, n: f"{key}/{n + 1000}.jpg"), train=2, test=1)
    write_images(base / "images", [path for split in rows.values() for path, _ in split])
    for split, found in rows.items():
        paths = [path.removesuffix(".jpg") for path, _ in found]
        write_lines(base / "meta" / f"{split}.txt", paths)
        by_class: dict[str, list[str]] = {}
        for path in paths:
            by_class.setdefault(path.split("/")[0], []).append(path)
        (base / "meta" / f"{split}.json").write_text(json.dumps(by_class))
    write_lines(base / "meta" / "classes.txt", entry.classes)
    write_lines(base / "meta" / "labels.txt", entry.classnames)
    return rows


def oxford_pets(base: Path, entry: CatalogEntry) -> Expected:
    cats = {"abyssinian", "bengal", "birman", "bombay", "british_shorthair", "egyptian_mau", "maine_coon", "persian"}
    spelt = [key.title() if key in cats else key for key in entry.classes]
    rows = [(f"{spelt[label]}_{n + 1}.jpg", label) for label in range(len(spelt)) for n in range(3)]
    dealt = split_every(rows, train=2, test=1)
    write_images(base / "images", [path for path, _ in rows])
    write_images(base / "images", [])
    (base / "images" / "Abyssinian_1.mat").write_bytes(b"MATLAB")  # three such lie among the real images
    for split, file in (("train", "trainval"), ("test", "test")):
        lines = [
            f"{path.removesuffix('.jpg')} {label + 1} {1 if path[0].isupper() else 2} 1" for path, label in dealt[split]
        ]
        write_lines(base / "annotations" / f"{file}.txt", lines)
    return dealt


def stanford_cars(base: Path, entry: CatalogEntry) -> Expected:
    fields = [(name, "O") for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    rows: Expected = {}
    for split, each in (("train", 2), ("test", 1)):
        labels = np.random.default_rng(each).permutation(np.repeat(np.arange(len(entry.classes)), each))
        rows[split] = [(f"cars_{split}/{number + 1:05d}.jpg", int(label)) for number, label in enumerate(labels)]
        annotations = np.empty((1, len(labels)), fields)
        for number, (path, label) in enumerate(rows[split]):
            annotations[0, number] = (1, 1, 9, 9, label + 1, path.split("/")[1])
        file = "devkit/cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
        (base / file).parent.mkdir(parents=True, exist_ok=True)
        savemat(base / file, {"annotations": annotations})
        write_images(base, [path for path, _ in rows[split]])
    names = np.empty((1, len(entry.classes)), object)
    names[0] = list(entry.classes)
    savemat(base / "devkit/cars_meta.mat", {"class_names": names})
    return rows


def oxford_flowers(base: Path, entry: CatalogEntry) -> Expected:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(102), 4))
    rows = [(f"image_{number + 1:05d}.jpg", int(label)) for number, label in enumerate(labels)]
    dealt = split_every(rows, train=1, val=1, test=2)
    write_images(base / "jpg", [path for path, _ in rows])
    savemat(base / "imagelabels.mat", {"labels": (labels + 1)[None].astype(np.uint8)})
    ids = {split: [int(path[6:11]) for path, _ in found] for split, found in dealt.items()}
    names = {"train": "trnid", "val": "valid", "test": "tstid"}
    savemat(base / "setid.mat", {names[split]: np.array(found, np.uint16)[None] for split, found in ids.items()})
    return dealt


def fgvc_aircraft(base: Path, entry: CatalogEntry) -> Expected:
    rows = [(f"{1000000 + 7 * n}.jpg", n % len(entry.classes)) for n in range(3 * len(entry.classes))]
    dealt = split_every(rows, train=1, val=1, test=1)
    write_images(base / "images", [path for path, _ in rows])
    names = list(entry.classes)
    write_lines(base / "variants.txt", names)
    for split, found in dealt.items():
        lines = [f"{path.removesuffix('.jpg')} {names[label]}" for path, label in found]
        write_lines(base / f"images_variant_{split}.txt", lines)
    return dealt


def dtd(base: Path, entry: CatalogEntry) -> Expected:
    dealt = split_every(class_rows(entry, 3, lambda key, n: f"{key}/{key}_{n + 2:04d}.jpg"), train=1, val=1, test=1)
    for split, found in dealt.items():
        write_images(base / "images", [path for path, _ in found])
        write_lines(base / "labels" / f"{split}1.txt", [path for path, _ in found])
    return dealt


def sun397(base: Path, entry: CatalogEntry, images: str) -> Expected:
    rows = class_rows(entry, 3, lambda key, n: f"{key}/sun_a{n}.jpg")
    write_images(base / images, [path for path, _ in rows])
    write_lines(base / images / "ClassName.txt", [f"/{key}" for key in entry.classes])
    return {"all": rows}


def sun397_with_partitions(base: Path, entry: CatalogEntry) -> Expected:
    dealt = split_every(sun397(base, entry, "SUN397")["all"], train=2, test=1)
    write_lines(base / "Training_01.txt", [f"/{path}" for path, _ in dealt["train"]])
    write_lines(base / "Testing_01.txt", [f"/{path}" for path, _ in dealt["test"]])
    return dealt


def ucf101(base: Path, entry: CatalogEntry) -> Expected:
    actions = [key.replace("_", "") for key in entry.classes]
    keys = list(entry.classes)
    rows = [(f"{keys[c]}/v_{actions[c]}_g{n + 1:02d}_c01.jpg", c) for c in range(len(keys)) for n in range(3)]
    dealt = split_every(rows, test=1, train=2)
    write_images(base / "UCF-101-midframes", [path for path, _ in rows])
    lists = base / "ucfTrainTestlist"
    write_lines(lists / "classInd.txt", [f"{label + 1} {action}" for label, action in enumerate(actions)])
    video = {path: f"{actions[label]}/{path.split('/')[1].removesuffix('.jpg')}.avi" for path, label in rows}
    write_lines(lists / "trainlist01.txt", [f"{video[path]} {label + 1}" for path, label in dealt["train"]])
    write_lines(lists / "testlist01.txt", [video[path] for path, _ in dealt["test"]])
    return dealt


def class_folders(base: Path, entry: CatalogEntry, images: str, each: int = 4) -> Expected:
    rows = class_rows(entry, each, lambda key, n: f"{key}/image_{n + 1:04d}.jpg")
    write_images(base / images, [path for path, _ in rows])
    return {"all": rows}


def caltech101(base: Path, entry: CatalogEntry) -> Expected:
    write_images(base / "101_ObjectCategories", ["BACKGROUND_Google/image_0001.jpg", "Faces_easy/image_0001.jpg"])
    return class_folders(base, entry, "101_ObjectCategories")


def imagenet(base: Path, entry: CatalogEntry, images: str) -> Expected:
    train = class_rows(entry, 2, lambda key, n: f"train/{key}/{key}_{n}.JPEG")
    test = class_rows(entry, 1, lambda key, n: f"val/{key}/ILSVRC2012_val_{n:08d}.JPEG")
    write_images(base / images, [path for path, _ in train + test])
    return {"train": train, "test": test}


def only_test(base: Path, entry: CatalogEntry, images: str) -> Expected:
    (base / images).mkdir(parents=True)
    (base / images / "README.txt").write_text("of the archive")
    return {"test": class_folders(base, entry, images, each=1)["all"]}


Build = Callable[[Path, CatalogEntry], Expected]

# (data set, layout): folder below the root, and what fills it.
LAYOUTS: dict[tuple[str, str], tuple[str, Build]] = {
    ("imagenet", "CoOp"): ("imagenet", lambda base, entry: imagenet(base, entry, "images")),
    ("imagenet", "torchvision"): (".", lambda base, entry: imagenet(base, entry, ".")),
    ("caltech101", "CoOp"): ("caltech-101", caltech101),
    ("caltech101", "torchvision"): ("caltech101", caltech101),
    ("oxford_pets", "CoOp"): ("oxford_pets", oxford_pets),
    ("oxford_pets", "torchvision"): ("oxford-iiit-pet", oxford_pets),
    ("stanford_cars", "both"): ("stanford_cars", stanford_cars),
    ("oxford_flowers", "CoOp"): ("oxford_flowers", oxford_flowers),
    ("oxford_flowers", "torchvision"): ("flowers-102", oxford_flowers),
    ("food101", "both"): ("food-101", food101),
    ("fgvc_aircraft", "CoOp"): ("fgvc_aircraft", fgvc_aircraft),
    ("fgvc_aircraft", "torchvision"): ("fgvc-aircraft-2013b/data", fgvc_aircraft),
    ("sun397", "CoOp"): ("sun397", sun397_with_partitions),
    ("sun397", "torchvision"): ("SUN397", lambda base, entry: sun397(base, entry, ".")),
    ("dtd", "CoOp"): ("dtd", dtd),
    ("dtd", "torchvision"): ("dtd/dtd", dtd),
    ("eurosat", "both"): ("eurosat", lambda base, entry: class_folders(base, entry, "2750")),
    ("ucf101", "CoOp"): ("ucf101", ucf101),
    ("imagenet_v2", "CoOp"): ("imagenetv2", lambda b, e: only_test(b, e, "imagenetv2-matched-frequency-format-val")),
    ("imagenet_sketch", "CoOp"): ("imagenet-sketch", lambda b, e: only_test(b, e, "images")),
    ("imagenet_sketch", "as unpacked"): ("imagenet-sketch", lambda b, e: only_test(b, e, "sketch")),
    ("imagenet_a", "CoOp"): ("imagenet-adversarial", lambda b, e: only_test(b, e, "imagenet-a")),
    ("imagenet_a", "as unpacked"): (".", lambda b, e: only_test(b, e, "imagenet-a")),
    ("imagenet_r", "CoOp"): ("imagenet-rendition", lambda b, e: only_test(b, e, "imagenet-r")),
}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Expected]]:
    """tree("dtd", "CoOp"): a root with that data set in that layout, and the rows it should have. Not to be changed."""
    made: dict[tuple[str, str], tuple[Path, Expected]] = {}

    def build(name: str, layout: str) -> tuple[Path, Expected]:
        if (name, layout) not in made:
            root = tmp_path_factory.mktemp(f"{name}-{layout}".replace(" ", "-"))
            folder, fill = LAYOUTS[name, layout]
            made[name, layout] = root, fill(root / folder, entries()[name])
        return made[name, layout]

    return build


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"name", "layout"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("name", "layout"), list(LAYOUTS), ids=[f"{n}-{at}" for n, at in LAYOUTS])
