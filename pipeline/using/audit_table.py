"""An audit as tables for people, one for each kind of finding."""

from __future__ import annotations

from rich.console import Console

from mma.pipeline.console import Column, show_table
from mma.pipeline.using.audit import Audit, Kind

TITLES: dict[Kind, tuple[str, str]] = {  # what it is, and what its number is
    "label": ("labels that look wrong, by a fit that has not seen the image", "margin"),
    "same bytes": ("images that are there twice, byte by byte", "cosine"),
    "near twin": ("images that are nearly the same", "cosine"),
    "far": ("images far from everything", "cosine"),
    "texts": ("classes whose images the texts call another class", "share"),
}


def show_audit(console: Console, found: Audit, first: int) -> None:
    """The first findings of each kind; how many there are is said."""
    for kind, (title, value) in TITLES.items():
        findings = found.of(kind)
        if not findings:
            continue
        shown = findings[:first]
        more = f" ({len(shown)} of {len(findings)})" if len(shown) < len(findings) else f" ({len(findings)})"
        rows = [[f.split, f.path, f.classname, f.looks_like, f.other, f"{f.value:.3g}"] for f in shown]
        names = ("split", "image", "class", "looks like", "twin of", value)
        filled = [at for at in range(len(names)) if any(row[at] for row in rows)]
        columns = [Column(names[at], right=names[at] == value) for at in filled]
        show_table(console, columns, [[row[at] for at in filled] for row in rows], title=title + more)
    counts = ", ".join(f"{kind} {len(found.of(kind))}" for kind in TITLES)
    console.print(f"{found.rows:,} images looked at: {counts}")
