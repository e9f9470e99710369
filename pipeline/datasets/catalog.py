"""What is known of the published data sets, as data: one TOML file each in `entries/`.

A file gives the title, source, licence, templates, published counts, where the files lie and come from, and `classes`:
how the data set writes a class (a folder, a number, a wnid) and its name in prompts, in label order.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Archive:
    """One file to download: an archive that is unpacked, or a plain file."""

    urls: Sequence[str]  # tried in order
    into: str  # folder below the root it is unpacked or put in
    gives: str  # path below the root that is there when it is done
    checksum: str = ""  # "sha256:..." or "md5:...", where one is published
    bytes: int | None = None
    unpacked: int = 0  # bytes it may at most unpack to; 0 for a plain file
    inner: str = ""  # an archive within it, that is unpacked too


@dataclass(frozen=True)
class CoopSplit:
    """The split file of CoOp's authors (DATASETS.md of KaiyangZhou/CoOp)."""

    file: str
    url: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class CatalogEntry:
    """One published data set."""

    name: str
    title: str
    paper: str
    source: str
    licence: str
    names_from: str  # whose class names
    templates: Sequence[str]
    folders: Sequence[str]  # below the root, tried in order: CoOp's layout and torchvision's
    images: Sequence[str]  # folder of images below that, tried in order; "." where they are one
    reader: str  # how its own annotations are read: a name in `readers.READERS`, or "cifar"
    counts: Mapping[str, int]  # of the official splits; empty where there are none
    classes: Mapping[str, str]  # as the data set writes it -> name in prompts, in label order
    proof: str = ""  # path below the images' folder that must be there
    needs: Sequence[str] = ()  # annotation files, below the folder
    split_folders: Mapping[str, str] | None = None  # split -> folder of class folders
    files: int = 0  # images of a complete copy
    get: str = ""  # how to get it, where there is no archive or it may be gone
    coop: CoopSplit | None = None
    archives: Sequence[Archive] = ()

    @property
    def classnames(self) -> tuple[str, ...]:
        """Names in prompts, in label order."""
        return tuple(self.classes.values())

    @property
    def class_folders(self) -> bool:
        """Whether the images lie in one folder per class, called as the class."""
        return self.reader in ("class-folders", "dtd", "food101", "sun397", "ucf101")

    @property
    def how_to_get(self) -> str:
        """One line on where it comes from."""
        return self.get or f"`mma embed --dataset {self.name}` downloads it, or see {self.source}"


@cache
def entries() -> Mapping[str, CatalogEntry]:
    """Every published data set that is known, by name."""
    folder = resources.files("mma.pipeline.datasets").joinpath("entries")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    raw = {file.name.removesuffix(".toml"): tomllib.loads(file.read_text(encoding="utf-8")) for file in files}
    return {name: _entry(name, given, raw) for name, given in raw.items()}


def imagenet_labels(name: str) -> list[int]:
    """The ImageNet label of each class of a data set whose classes are some or all of ImageNet's: [C]."""
    known = list(entries()["imagenet"].classes)
    wanted = entries()[name]
    if wanted.classnames == entries()["imagenet"].classnames:
        return list(range(len(known)))
    return [known.index(wnid) for wnid in wanted.classes]


def _entry(name: str, given: Mapping[str, Any], raw: Mapping[str, Mapping[str, Any]]) -> CatalogEntry:
    fields = {key: value for key, value in given.items() if key not in ("classes_of", "subset", "numbered")}
    if "classes_of" in given:
        fields["classes"] = _borrowed(raw[given["classes_of"]]["classes"], given)
    fields["coop"] = CoopSplit(**given["coop"]) if "coop" in given else None
    fields["archives"] = tuple(Archive(**archive) for archive in given.get("archives", ()))
    return CatalogEntry(name=name, **{"counts": {}, **fields})


def _borrowed(classes: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, str]:
    """Another data set's classes: all, some, or all under their numbers."""
    if given.get("numbered"):
        return {str(label): name for label, name in enumerate(classes.values())}
    return {key: classes[key] for key in given.get("subset", classes)}
