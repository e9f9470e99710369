"""How is a figure drawn? By matplotlib, sized for a column of a paper and readable in grey (line styles, markers)."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mma.cache.durable import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN = 3.35  # inches: the width of a column in the usual two-column styles
FORMATS = ("pdf", "svg", "png")
DOTS = 300  # per inch of a PNG
INK = "#222222"  # text and axes; on the page it becomes the colour of the page's text
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f")  # Okabe and Ito (2008)
MARKERS, DASHES = "os^Dv<>P", ("-", "--", "-.", ":")
STYLE: Any = {
    "font.size": 7,
    "axes.titlesize": 7,
    "legend.fontsize": 6,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "text.parse_math": False,  # a name with a dollar is a name
    "svg.hashsalt": "mma",
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Picture:
    """A figure still to be drawn: the name of its file, and what it shows, in words."""

    name: str
    caption: str
    height: float  # inches
    draw: Callable[[Figure], None]
    width: float = COLUMN  # inches


def write_pictures(pictures: Sequence[Picture], folder: Path) -> list[Path]:
    """Pictures as PDF, SVG and PNG, each file whole or not at all. Returns the files."""
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        with drawn(picture) as figure:
            for suffix in FORMATS:
                stream = io.BytesIO()
                metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
                figure.savefig(stream, format=suffix, dpi=DOTS, metadata=metadata)
                path = folder / f"{picture.name}.{suffix}"
                write_whole(path, stream.getvalue())
                written.append(path)
    return written


def as_inline_svg(picture: Picture) -> str:
    """A figure as an SVG element for a page: its own names, and the page's text colour and font."""
    import matplotlib

    with drawn(picture) as figure, matplotlib.rc_context({"svg.fonttype": "none"}):
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{picture.name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{picture.name}-", text)
    text = text.replace(INK, "currentColor")
    return re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', text, count=1)


@contextmanager
def drawn(picture: Picture) -> Iterator[Figure]:
    """The figure of a picture, in this style."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a letter that the font lacks is drawn as a box
        figure = Figure(figsize=(picture.width, picture.height), layout="constrained")
        picture.draw(figure)
        yield figure


def short(text: str) -> str:
    """A name as a label has room for it."""
    return text if len(text) <= 28 else f"{text[:27]}…"
