"""What `mma fit` and `mma ablate` can be told. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mma.pipeline.errors import UsageError
from mma.pipeline.options import Field, Option, checked, fields_of, numbers

DATA, PROTOCOL, RECIPE, ADAPTER, OUTPUT = "Data", "Protocol", "Recipe (by default, the adapter's)", "Adapter", "Output"
AUTO = "auto"  # the adapter that validation rows choose among the fast ones
SELECTIONS = ("val", "classes", "last", "oracle")
METRICS = (  # that `mma fit` shows on request, beside those of the protocol
    "balanced",
    "macro-f1",
    "recall",
    "precision",
    "confusion",
    "ece",
    "nll",
    "brier",
    "top5",
    "errors",
)
DEVICES = ("auto", "cpu", "cuda", "mps")
PROCESSES = "Processes; 1 uses the threads of this one."
MOST_SEEDS = 100_000
MOST_SHOTS = 1_000_000
MOST_WORKERS = 1024


def read_seeds(given: int | str | Iterable[Any]) -> tuple[int, ...]:
    """The seeds: one number is how many, from 0; several are those themselves. Raises UsageError."""
    if isinstance(given, str) and "," in given:
        given = [part for part in given.split(",") if part.strip()]
    if isinstance(given, int | str):
        return tuple(range(numbers("seeds", [given], least=1, most=MOST_SEEDS)[0]))
    seeds = tuple(numbers("seeds", list(given)))
    if not seeds:
        raise UsageError("seeds has no values")
    return seeds


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """What `mma fit` can be told. Raises UsageError for a value that cannot be."""

    cache: Annotated[tuple[str, ...], Option("A finished cache: a path, or an fsspec URL. May be repeated.", DATA)]
    target: Annotated[
        tuple[str, ...],
        Option("Also score this cache, of the same model. May be repeated.", DATA, factor=True),
    ] = ()
    prompts: Annotated[str, Option("A prompt set of the cache.", DATA, factor=True)] = "default"
    reduce: Annotated[
        str, Option("Templates to one vector: unit or raw mean, or one by number.", DATA, factor=True)
    ] = "unit"
    partial: Annotated[bool, Option("Take the finished rows of an unfinished cache.", DATA)] = False

    protocol: Annotated[
        str | None,
        Option(
            "base-to-new, few-shot, cross-dataset or domain-shift.",
            PROTOCOL,
            shown="base-to-new; own data: few-shot",
            factor=True,
        ),
    ] = None
    shots: Annotated[
        int | None,
        Option(
            "Support images per class.",
            PROTOCOL,
            least=1,
            most=MOST_SHOTS,
            shown="16, or what classes allow",
            factor=True,
        ),
    ] = None
    seeds: Annotated[
        tuple[int, ...],
        Option("How many, or which: 3 is 0,1,2; 1,2,3 are those.", PROTOCOL, shown="3", read=read_seeds),
    ] = (0, 1, 2)
    supports: Annotated[
        str,
        Option(
            "equal: shots of every class; natural: as many in all.",
            PROTOCOL,
            choices=("equal", "natural"),
            factor=True,
        ),
    ] = "equal"
    val: Annotated[
        str,
        Option(
            "rows: up to 4 per class, to choose on; none: no row.",
            PROTOCOL,
            choices=("rows", "none"),
            factor=True,
        ),
    ] = "rows"
    select: Annotated[
        str | None,
        Option(
            "Choose on val, classes (held out), oracle (test), or last: never.",
            PROTOCOL,
            choices=SELECTIONS,
            shown="the recipe's, else val",
            factor=True,
        ),
    ] = None
    draws: Annotated[
        str,
        Option(
            "nested: few are part of more; coop: CoOp's.",
            PROTOCOL,
            choices=("nested", "coop"),
            factor=True,
        ),
    ] = "nested"
    base_rule: Annotated[
        str,
        Option("Half of an odd number of classes: up or down.", PROTOCOL, choices=("ceil", "floor"), factor=True),
    ] = "ceil"
    base_ratio: Annotated[float, Option("Base classes to new classes.", PROTOCOL, least=0, most=1e6, factor=True)] = 1.0
    label_noise: Annotated[
        float, Option("Share of wrong labels in the support.", PROTOCOL, least=0, most=1, factor=True)
    ] = 0.0
    imbalance: Annotated[
        float,
        Option("Most shots of a class to the fewest.", PROTOCOL, least=1, most=1e6, factor=True),
    ] = 1.0
    train_noise: Annotated[str, Option("Train on this noisy view of the cache.", PROTOCOL, factor=True)] = "none"
    test_noise: Annotated[str, Option("Score this noisy view of the cache.", PROTOCOL, factor=True)] = "none"

    recipe: Annotated[
        str | None,
        Option("One that `mma adapters NAME` lists.", RECIPE, shown="the adapter's first", factor=True),
    ] = None
    lr: Annotated[float | None, Option("Learning rate.", RECIPE, least=0, factor=True)] = None
    weight_decay: Annotated[float | None, Option("Weight decay.", RECIPE, least=0, most=1e6, factor=True)] = None
    batch: Annotated[int | None, Option("Images per step.", RECIPE, least=1, most=10**8, factor=True)] = None
    epochs: Annotated[int | None, Option("Epochs at most.", RECIPE, least=1, most=10**6, factor=True)] = None
    patience: Annotated[
        int | None,
        Option("Epochs to wait for a better one.", RECIPE, least=1, most=10**6, factor=True),
    ] = None
    optimizer: Annotated[
        str | None,
        Option("Which optimiser.", RECIPE, choices=("adam", "adamw", "sgd"), factor=True),
    ] = None
    schedule: Annotated[
        str | None,
        Option("Of the learning rate.", RECIPE, choices=("constant", "cosine"), factor=True),
    ] = None
    warmup: Annotated[
        int | None,
        Option("First epochs, at a rate of 1e-5.", RECIPE, least=0, most=10**6, factor=True),
    ] = None
    monitor: Annotated[
        str | None,
        Option(
            "What validation selects by.",
            RECIPE,
            choices=("accuracy", "loss"),
            factor=True,
        ),
    ] = None

    adapter: Annotated[
        tuple[str, ...],
        Option("Of `mma adapters`, FILE.py:CLASS, or auto; several: a,b,c.", ADAPTER, split=True, factor=True),
    ] = ("mma",)
    options: Mapping[str, Any] = field(default_factory=dict)  # hyper-parameters, for the adapters that have them

    metrics: Annotated[
        tuple[str, ...],
        Option("Also show these; several: a,b,c.", OUTPUT, choices=METRICS, split=True, shown="none"),
    ] = ()
    device: Annotated[str, Option("auto, cpu, cuda or mps.", OUTPUT, choices=DEVICES)] = "auto"
    workers: Annotated[int, Option(PROCESSES, OUTPUT, least=1, most=MOST_WORKERS)] = 1
    out: Annotated[Path, Option("Results folder.", OUTPUT)] = Path("runs")
    force: Annotated[bool, Option("Fit again what is there already.", OUTPUT)] = False

    def __post_init__(self) -> None:
        checked(self)

    @property
    def factors(self) -> dict[str, Sequence[Any]]:
        """The settings as a grid of one value for each option that is given; adapters side by side."""
        given = {f.name: [getattr(self, f.name)] for f in FACTORS.values() if getattr(self, f.name) != f.default}
        options = {name: [value] for name, value in self.options.items()}
        several = {"target": self.target} if self.target else {}
        return {**given, **options, **several, "adapter": self.adapter, "seed": self.seeds}


@dataclass(frozen=True, kw_only=True)
class AblateSettings:
    """What `mma ablate` can be told. `factors` are lists of values by name: anything `fit` takes, or an adapter's."""

    cache: Annotated[tuple[str, ...], Option("A finished cache: a path, or an fsspec URL. May be repeated.", DATA)]
    factors: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    baseline: Annotated[str, Option("Compare with this: an adapter, with key=value.", OUTPUT)] = "zero-shot"
    device: Annotated[str, Option("auto, cpu, cuda or mps.", OUTPUT, choices=DEVICES)] = "auto"
    workers: Annotated[int, Option(PROCESSES, OUTPUT, least=1, most=MOST_WORKERS)] = 1
    scheduler: Annotated[str | None, Option("A dask scheduler's address, or local.", OUTPUT)] = None
    out: Annotated[Path, Option("Results folder.", OUTPUT)] = Path("runs")
    retry_failed: Annotated[bool, Option("Run failed cells again.", OUTPUT)] = False
    force: Annotated[bool, Option("Run again what is there already.", OUTPUT)] = False
    predictions: Annotated[bool, Option("Keep what was predicted of every image.", OUTPUT)] = True

    def __post_init__(self) -> None:
        checked(self)


FACTORS: dict[str, Field] = {f.name: f for f in fields_of(FitSettings) if f.option.factor}  # by name; beside `seed`
