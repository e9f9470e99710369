"""Mend a damaged cache, so that it ends with the bytes it had.

What the cache itself can make again is made again: root and journal are each other's backup, and descriptions of arrays
follow from the header. What it cannot comes from a copy of the cache, if there is one. The rest is forgotten: those
chunks and prompt sets count as not done, the cache as unfinished, and whoever can compute them does (`mma embed`, or
`mma cache repair` with the data set). Interrupted anywhere, repair is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mma.cache.chunk_files import Arrays
from mma.cache.errors import CacheError
from mma.cache.journal import JOURNAL, MANIFEST, SPARE, parse_journal
from mma.cache.killpoint import step
from mma.cache.layout import ManifestSplit, lay_out_arrays, lay_out_projections, lay_out_text
from mma.cache.lock import only_writer
from mma.cache.place import Place
from mma.cache.projection import PROJECTION
from mma.cache.root import ROOT, TEXT
from mma.cache.schema import Header
from mma.cache.verify import Fault, VerifyReport, verify
from mma.cache.where import Location, open_place
from mma.cache.writer import CacheWriter

Manifest = Callable[[Header], Mapping[str, ManifestSplit]]  # labels and paths, from the data set


@dataclass(frozen=True)
class RepairReport:
    """What `mend` did, and what is left to compute."""

    faults: list[Fault]
    restored: list[str]  # files
    to_compute: list[str]  # units
    complete: bool


def mend(
    path: Location,
    manifest: Manifest | None = None,
    copy: Location | None = None,
    can_compute: Callable[[Header, bool], None] | None = None,
) -> RepairReport:
    """Repair what can be repaired without a model.

    `copy` is another copy of the same cache, `manifest` gives labels and paths where those are damaged. CacheError
    where they are needed and not given, or are not those that the cache was made from. `can_compute` is asked
    before damaged units are forgotten (whether there are images among them, or texts alone), and raises where they
    cannot be computed again: then they stay as they are.
    """
    place = open_place(path)
    with only_writer(path):
        checked = verify(path)
        restored = _mend_top(place, checked)
        _set_aside(place, checked)
    by_name = {fault.file: fault for fault in checked.faults if fault.unit}
    with CacheWriter.reopen(path) as writer:
        if copy is not None:
            source = open_place(copy)
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


def _mend_top(place: Place, checked: VerifyReport) -> list[str]:
    """Write the root and the journals as they must have been."""
    if checked.root is None:
        raise CacheError(f"{place.location} has no root")
    wanted = {ROOT: checked.root.to_bytes()}
    if any(fault.file in (JOURNAL, SPARE) for fault in checked.faults):
        wanted |= {JOURNAL: checked.journal} | ({SPARE: checked.journal} if checked.root.complete else {})
    restored = []
    for name, data in wanted.items():
        if not place.holds(name, data):
            with step("repair.restore"):
                place.write({name: data})
            restored.append(name)
    return restored


def _set_aside(place: Place, checked: VerifyReport) -> None:
    """Rename what stands where a folder should be, a file or a link, to `<name>.was`; repair writes through neither."""
    for fault in checked.faults:
        while above := place.strange_folder(fault.file):
            place.set_aside(above)


def _restore_from(writer: CacheWriter, copy: Place, file: str) -> bool:
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
    arrays, header = Arrays(), writer.header
    lay_out_arrays(arrays.root, header, manifest(header) if contents and manifest else None)
    for unit, entry in parse_journal(checked.journal)[0].items():
        if unit.startswith(TEXT):
            lay_out_text(arrays.root, unit.removeprefix(TEXT), header, entry.about["templates"])
    if header.penultimate:
        lay_out_projections(arrays.root, header)
    files = arrays.take(arrays.names())
    restored = []
    for fault in left:
        if fault.file in files and (fault.unit == MANIFEST or fault.file.endswith(ROOT)):
            writer.restore(fault.file, files[fault.file])
            restored.append(fault.file)
    return restored
