"""Mend a damaged cache, so that it ends with the bytes it had.

What the cache itself can make again is made again: root and journal are each other's backup, and descriptions of arrays
follow from the header. What it cannot comes from a copy of the cache, if there is one. The rest is forgotten: those
chunks and prompt sets count as not done, the cache as unfinished, and whoever can compute them does (`mma embed`, or
`mma cache repair` with the data set). Interrupted anywhere, repair is run again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import zarr

from mma.cache.durable import holds, write_whole
from mma.cache.errors import CacheError
from mma.cache.files import CacheFiles
from mma.cache.journal import JOURNAL, MANIFEST, SPARE, parse_journal
from mma.cache.killpoint import step
from mma.cache.layout import ManifestSplit, lay_out_arrays, lay_out_projections, lay_out_text
from mma.cache.lock import only_writer
from mma.cache.projection import PROJECTION
from mma.cache.root import ROOT, TEXT
from mma.cache.schema import Header
from mma.cache.verify import Fault, VerifyReport, verify
from mma.cache.writer import CacheWriter, draft_folder

Manifest = Callable[[Header], Mapping[str, ManifestSplit]]  # labels and paths, from the data set


@dataclass(frozen=True)
class RepairReport:
    """What `mend` did, and what is left to compute."""

    faults: list[Fault]
    restored: list[str]  # files
    to_compute: list[str]  # units
    complete: bool


def mend(
    path: Path,
    manifest: Manifest | None = None,
    copy: Path | None = None,
    can_compute: Callable[[Header, bool], None] | None = None,
) -> RepairReport:
    """Repair what can be repaired without a model.

    `copy` is another copy of the same cache, `manifest` gives labels and paths where those are damaged. CacheError
    where they are needed and not given, or are not those that the cache was made from. `can_compute` is asked
    before damaged units are forgotten (whether there are images among them, or texts alone), and raises where they
    cannot be computed again: then they stay as they are.
    """
    with only_writer(path):
        checked = verify(path)
        restored = _mend_top(path, checked)
        _set_aside(path, checked)
    by_name = {fault.file: fault for fault in checked.faults if fault.unit}
    with CacheWriter.reopen(path) as writer:
        if copy is not None:
            source = CacheFiles(copy)
            restored += [file for file in by_name if _restore_from(writer, source, file)]
        left = [fault for file, fault in by_name.items() if file not in restored]
        if any(fault.unit == MANIFEST or fault.file.endswith(ROOT) for fault in left):
            restored += _mend_layout(writer, checked, left, manifest)
        lost = list(dict.fromkeys(fault.unit for fault in left if fault.file not in restored))
        if lost and can_compute is not None:
            can_compute(writer.header, not all(unit.startswith((TEXT, PROJECTION)) for unit in lost))
        if lost:
            writer.forget(lost)
        to_compute = [PROJECTION] if writer.pending_projections() else []
        to_compute += [chunk.unit for chunk in writer.pending()] + [TEXT + name for name in writer.pending_text()]
        if not to_compute:
            writer.finish()
        return RepairReport(checked.faults, restored, to_compute, writer.complete)


def _mend_top(path: Path, checked: VerifyReport) -> list[str]:
    """Write the root and the journals as they must have been."""
    if checked.root is None:
        raise CacheError(f"{path} has no root")
    wanted = {ROOT: checked.root.to_bytes()}
    if any(fault.file in (JOURNAL, SPARE) for fault in checked.faults):
        wanted |= {JOURNAL: checked.journal} | ({SPARE: checked.journal} if checked.root.complete else {})
    restored = []
    for name, data in wanted.items():
        file = path / name
        if not holds(file, data):
            with step("repair.restore"):
                write_whole(file, data)
            restored.append(name)
    return restored


def _set_aside(path: Path, checked: VerifyReport) -> None:
    """Rename what stands where a folder should be, a file or a link, to `<name>.was`; repair writes through neither."""
    for fault in checked.faults:
        while above := CacheFiles(path).strange_folder(fault.file):
            place = path / above
            aside = place.with_name(f"{place.name}.was")
            if aside.is_symlink() or aside.is_file():
                aside.unlink()
            place.rename(aside)


def _restore_from(writer: CacheWriter, copy: CacheFiles, file: str) -> bool:
    try:
        writer.restore(file, copy.read(file) or b"")
    except CacheError:
        return False  # the copy is damaged there too, or is of something else
    return True


def _mend_layout(writer: CacheWriter, checked: VerifyReport, left: list[Fault], manifest: Manifest | None) -> list[str]:
    """Make descriptions of arrays again, and labels and paths, and put those in place that are damaged."""
    contents = [f.file for f in left if f.unit == MANIFEST and not f.file.endswith(ROOT)]
    if contents and manifest is None:
        raise CacheError(
            f"{writer.path}: {contents[0]} is damaged, and needs the data set ({writer.header.dataset}): "
            "give that, or another copy of the cache"
        )
    draft = draft_folder(writer.path)
    try:
        root = zarr.open_group(draft, mode="w")
        lay_out_arrays(root, writer.header, manifest(writer.header) if contents and manifest else None)
        header = writer.header
        for unit, entry in parse_journal(checked.journal)[0].items():
            if unit.startswith(TEXT):
                lay_out_text(root, unit.removeprefix(TEXT), header, entry.about["templates"])
        if header.penultimate:
            lay_out_projections(root, header)
        restored = []
        for fault in left:
            file = draft / fault.file
            if file.exists() and (fault.unit == MANIFEST or fault.file.endswith(ROOT)):
                writer.restore(fault.file, file.read_bytes())
                restored.append(fault.file)
        return restored
    finally:
        shutil.rmtree(draft, ignore_errors=True)
