"""What `mma export`, `mma predict`, `mma audit` and `mma search` can be told. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mma.pipeline.errors import UsageError
from mma.pipeline.options import Option, checked, numbers, short
from mma.pipeline.regular_files import read_lines

FIT, RUN, OUTPUT, WHAT, ANSWER, MODEL = "Fit", "Or a fit that is there", "Output", "What", "Answer", "Model"
ONNX = "ONNX"
NEXT = "What to label next"
MOST_QUERY = 2_000  # letters of what is searched for: a CLIP cuts a text at 77 tokens
DEVICES = ("auto", "cpu", "cuda", "mps")
FORMATS = ("table", "csv", "jsonl")
ALL = "all"
PLACES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # a file's format, by its suffix


def read_shots(given: Any) -> str:
    """`all`, or a number as text. Raises UsageError."""
    return ALL if given == ALL else str(numbers("shots", [given], least=1, most=1_000_000)[0])


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What `mma export` can be told. Raises UsageError for a value that cannot be."""

    out: Annotated[Path, Option("The model folder to write.", OUTPUT)]
    cache: Annotated[str | None, Option("A finished cache.", FIT, shown="the run's own")] = None
    prompts: Annotated[str, Option("The prompt set of the cache to use.", FIT)] = "default"
    reduce: Annotated[str, Option("Templates to one vector: unit, raw, or a number for one alone.", FIT)] = "unit"
    adapter: Annotated[str | None, Option("Which: `mma adapters` lists them; auto chooses.", FIT)] = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the adapter, and of its recipe
    shots: Annotated[
        str, Option("all: every labelled image; a number: so many per class, as fit.", FIT, read=read_shots)
    ] = ALL
    select: Annotated[
        str | None, Option("Choose on val; last: no choice.", FIT, choices=("val", "last"), shown="the recipe's")
    ] = None
    with_test: Annotated[bool, Option("Fit on the test images too, in the end.", FIT)] = False
    run: Annotated[Path | None, Option("A setting's folder: runs/<adapter>-<id>.", RUN)] = None
    seed: Annotated[int, Option("Which seed of the run, or of the fit.", RUN, least=0)] = 0
    device: Annotated[str, Option("auto, cpu, cuda or mps.", OUTPUT, choices=DEVICES)] = "auto"
    force: Annotated[bool, Option("Replace a model that is there.", OUTPUT)] = False
    without_shots: Annotated[bool, Option("Leave out what `mma predict --why` names.", OUTPUT)] = False
    onnx: Annotated[
        str | None, Option("Also model.onnx, from embeddings or from pixels.", ONNX, choices=("embeddings", "pixels"))
    ] = None
    class_texts: Annotated[
        str, Option("In the ONNX file: baked in, or one more input.", ONNX, choices=("baked", "input"))
    ] = "baked"
    clip: Annotated[str | None, Option("The encoder's model, where its name does not find it.", ONNX)] = None
    pretrained: Annotated[str | None, Option("The encoder's tag, or checkpoint file.", ONNX)] = None

    def __post_init__(self) -> None:
        checked(self)
        if self.onnx is None and self.class_texts != "baked":
            raise UsageError("`class_texts` is of an ONNX file: give `onnx=embeddings` too")
        if self.onnx != "pixels" and (self.clip or self.pretrained):
            name = "clip" if self.clip else "pretrained"
            raise UsageError(f"`{name}` is of an ONNX file with the image tower: give `onnx=pixels` too")
        if self.run is None:
            missing = [name for name in ("cache", "adapter") if getattr(self, name) is None]
            if missing:
                raise UsageError(f"{missing[0]} is missing: a cache and an adapter to fit, or a run")
            if self.with_test and self.shots != ALL:
                raise UsageError(f"`with_test=True` fits on every labelled image: leave out `shots={self.shots}`")
            return
        given = [name for name in ("adapter", "with_test") if getattr(self, name)] + list(self.options)
        if given or self.shots != ALL:
            raise UsageError(f"{(given or ['shots'])[0]} is decided by the run: leave it out, or export from a cache")


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    """What `mma predict` can be told. Raises UsageError for a value that cannot be."""

    model: Path  # a model folder
    what: tuple[str, ...]  # images, folders, manifests, .tar shards, caches, URLs; "-": paths on standard input
    split: Annotated[str | None, Option("One split of a cache.", WHAT, shown="all")] = None
    root: Annotated[Path | None, Option("The folder below which a manifest's paths lie.", WHAT, shown="its own")] = None
    follow_links: Annotated[bool, Option("Read links that lead out of a folder.", WHAT)] = False

    top: Annotated[int, Option("Classes named for each image, the likeliest first.", ANSWER, least=1)] = 1
    classes: Annotated[
        Path | None, Option("A file of other class names, one on a line.", ANSWER, shown="the model's")
    ] = None
    threshold: Annotated[float | None, Option("Abstain below this probability.", ANSWER, least=0, most=1)] = None
    coverage: Annotated[
        float | None,
        Option("Also sets of classes; this share, such as 0.95, holds the right one.", ANSWER, least=0, most=1),
    ] = None

    why: Annotated[bool, Option("Also the nearest shots, and the margin over every other class.", ANSWER)] = False

    clip: Annotated[str | None, Option("The encoder's model, where its name does not find it.", MODEL)] = None
    pretrained: Annotated[str | None, Option("The encoder's tag, or checkpoint file.", MODEL)] = None
    device: Annotated[str, Option("auto, cpu, cuda or mps.", MODEL, choices=DEVICES)] = "auto"
    workers: Annotated[int | None, Option("Threads that decode.", MODEL, least=1, shown="one per core")] = None

    format: Annotated[str | None, Option("How it is written.", OUTPUT, choices=FORMATS, shown="table")] = None
    out: Annotated[Path | None, Option("A file to write: .csv or .jsonl.", OUTPUT)] = None
    embeddings: Annotated[Path | None, Option("Also keep unit embeddings [N, D]: a .npy file.", OUTPUT)] = None
    force: Annotated[bool, Option("Replace files that are there.", OUTPUT)] = False

    def __post_init__(self) -> None:
        checked(self)
        if self.coverage in (0, 1):
            raise UsageError(f"`coverage={self.coverage:g}` is not a share of images: give one between 0 and 1")
        if self.embeddings and self.embeddings.suffix != ".npy":
            raise UsageError(f"`embeddings={self.embeddings}`: embeddings are kept as .npy")
        check_out(self.out, self.format)

    @property
    def written_as(self) -> str:
        """table, csv or jsonl."""
        return PLACES[self.out.suffix.lower()] if self.out else self.format or "table"


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """What `mma audit` can be told. Raises UsageError for a value that cannot be."""

    cache: str  # a finished cache
    prompts: Annotated[str, Option("The prompt set of the cache to use.", WHAT)] = "default"
    reduce: Annotated[str, Option("Templates to one vector: unit, raw, or a number for one alone.", WHAT)] = "unit"
    near: Annotated[float, Option("Cosine from which two images are near twins.", WHAT, least=0, most=1)] = 0.99
    next: Annotated[int | None, Option("Instead, name this many images to label next.", NEXT, least=1, most=10_000)] = (
        None
    )
    model: Annotated[Path | None, Option("A model folder that is asked how sure it is.", NEXT)] = None
    labelled: Annotated[str | None, Option("Or a labelled cache of the same encoder.", NEXT)] = None
    first: Annotated[int, Option("How many of each kind the table and the sheet show.", OUTPUT, least=1)] = 40
    out: Annotated[Path | None, Option("Also write all findings: a .csv file.", OUTPUT)] = None
    sheet: Annotated[Path | None, Option("Also write the images of the first labels: a .png file.", OUTPUT)] = None
    root: Annotated[
        Path | None, Option("The folder below which the images are.", OUTPUT, shown="where they were embedded")
    ] = None
    device: Annotated[str, Option("auto, cpu, cuda or mps.", OUTPUT, choices=DEVICES)] = "auto"
    force: Annotated[bool, Option("Replace files that are there.", OUTPUT)] = False

    def __post_init__(self) -> None:
        checked(self)
        for name, file, suffix in (("out", self.out, ".csv"), ("sheet", self.sheet, ".png")):
            if file and file.suffix.lower() != suffix:
                raise UsageError(f"`{name}={file}`: it is written as {suffix}")
            refuse_file(name, file, force=self.force)
        if self.next is None and (self.model or self.labelled):
            raise UsageError(f"{'model' if self.model else 'labelled'} is an option of `next=K`: give that too")
        if self.next is not None and (self.model is None) == (self.labelled is None):
            raise UsageError(
                f"`next={self.next}` asks either a `model=FOLDER` how sure it is, or one fitted on a `labelled=CACHE`"
            )


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What `mma search` can be told. Raises UsageError for a value that cannot be."""

    cache: str  # a finished cache
    query: str  # words, or the path of an image
    top: Annotated[int, Option("How many images.", WHAT, least=1, most=100_000)] = 10
    split: Annotated[str | None, Option("Search this one alone.", WHAT, shown="all")] = None
    clip: Annotated[str | None, Option("The encoder's model, where its name does not find it.", MODEL)] = None
    pretrained: Annotated[str | None, Option("The encoder's tag, or checkpoint file.", MODEL)] = None
    device: Annotated[str, Option("auto, cpu, cuda or mps.", MODEL, choices=DEVICES)] = "auto"
    format: Annotated[str | None, Option("How it is written.", OUTPUT, choices=FORMATS, shown="table")] = None
    out: Annotated[Path | None, Option("A file to write: .csv or .jsonl.", OUTPUT)] = None
    sheet: Annotated[Path | None, Option("Also write the images: a .png file.", OUTPUT)] = None
    root: Annotated[
        Path | None, Option("The folder below which the images are.", OUTPUT, shown="where they were embedded")
    ] = None
    force: Annotated[bool, Option("Replace files that are there.", OUTPUT)] = False

    def __post_init__(self) -> None:
        checked(self)
        if not self.query.strip():
            raise UsageError("there is nothing to search for: give words, or the path of an image")
        if len(self.query) > MOST_QUERY:
            raise UsageError(f"the query has {len(self.query):,} letters; a CLIP reads about {MOST_QUERY // 4}")
        check_out(self.out, self.format)
        if self.sheet and self.sheet.suffix.lower() != ".png":
            raise UsageError(f"`sheet={self.sheet}`: it is written as .png")
        refuse_file("out", self.out, force=self.force)
        refuse_file("sheet", self.sheet, force=self.force)

    @property
    def written_as(self) -> str:
        """table, csv or jsonl."""
        return PLACES[self.out.suffix.lower()] if self.out else self.format or "table"


def check_out(out: Path | None, form: str | None) -> None:
    """Refuse a file whose suffix is of no format, or of another than is asked for. Raises UsageError."""
    if out and out.suffix.lower() not in PLACES:
        raise UsageError(f"`out={out}`: a file is .csv or .jsonl")
    if out and form and PLACES[out.suffix.lower()] != form:
        raise UsageError(f"`out={out}` is {PLACES[out.suffix.lower()]}, and `format={form}` another")


def refuse_file(name: str, file: Path | None, *, force: bool) -> None:
    """UsageError where a file that is to be written is there."""
    if file and file.exists() and not force:
        raise UsageError(f"{file} is there: `force` replaces it, or give another `{name}`")


def read_class_file(file: Path) -> tuple[str, ...]:
    """Class names, one on a line. UsageError where there are fewer than two, or one twice."""
    try:
        names = tuple(" ".join(line.split()) for line in read_lines(file) if line.strip())
    except OSError as error:
        raise UsageError(f"`classes={file}` cannot be read ({error.strerror or error})") from error
    if len(names) < 2:
        raise UsageError(f"`classes={file}` has {len(names)} names: at least two are needed, one on a line")
    if len(set(names)) < len(names):
        raise UsageError(f"`classes={file}` has {short(next(n for n in names if names.count(n) > 1))} twice")
    return names
