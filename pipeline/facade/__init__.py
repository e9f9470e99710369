"""Adapt CLIP to a task from cached embeddings.

>>> cache = mma.embed("shapes", model="tiny", cache=folder / "shapes.zarr", limit=480)
>>> fitted = mma.fit(cache, adapter=["linear-probe", "gda"], shots=4, seeds=2, out=folder / "runs")
>>> [row.setting.adapter for row in fitted]
['zero-shot', 'linear-probe', 'gda']

Nothing is imported before it is used: `import mma` loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from mma.adapters import Adapter, AdapterError
    from mma.cache import Cache, CacheError, open_cache
    from mma.pipeline.errors import UsageError, WorkError
    from mma.pipeline.fitting.features import Features, load_features
    from mma.pipeline.fitting.results import Grid, Row
    from mma.pipeline.using.audit import Audit
    from mma.pipeline.using.classifier import FewShotClassifier
    from mma.pipeline.using.load import LoadedModel
    from mma.pipeline.using.search import Hit

_HOMES = {
    "Adapter": "mma.adapters",
    "AdapterError": "mma.adapters",
    "Cache": "mma.cache",
    "CacheError": "mma.cache",
    "Features": "mma.pipeline.fitting.features",
    "FewShotClassifier": "mma.pipeline.using.classifier",
    "Grid": "mma.pipeline.fitting.results",
    "Row": "mma.pipeline.fitting.results",
    "UsageError": "mma.pipeline.errors",
    "WorkError": "mma.pipeline.errors",
    "load_features": "mma.pipeline.fitting.features",
    "open_cache": "mma.cache",
}

__all__ = [
    "Adapter",
    "AdapterError",
    "Cache",
    "CacheError",
    "Features",
    "FewShotClassifier",
    "Grid",
    "Row",
    "UsageError",
    "WorkError",
    "__version__",
    "ablate",
    "audit",
    "embed",
    "fit",
    "load_features",
    "load_model",
    "open_cache",
    "search",
]


def embed(dataset: str | Path, *, progress: bool = False, **options: Any) -> Cache:
    """Stage one: run a frozen CLIP over a data set, once, and return the opened cache.

    `options` are those of `mma embed`, with underscores. Quiet, unless `progress`. Raises UsageError for what cannot
    work, WorkError for work that could not go on: what is done is kept, and the same call continues.

    >>> mma.embed("shapes", model="tiny", cache=folder / "shapes.zarr", limit=480).header.dim
    64
    """

    from mma.cache import open_cache
    from mma.pipeline.embedding.embed import EmbedSettings
    from mma.pipeline.embedding.embed import embed as run
    from mma.pipeline.options import settings_from

    return open_cache(run(settings_from(EmbedSettings, {"dataset": str(dataset), **options}), _console(progress)))


def fit(cache: Caches, *, progress: bool = False, **options: Any) -> Grid:
    """Stage two: fit adapters on one or several caches, and return the rows of the table, zero-shot first.

    `cache` is an opened cache, a path, or several. `options` are those of `mma fit`, and of the adapters; with
    `adapter="auto"` the grid says in `chosen`, by cache, which one validation rows chose. Raises
    UsageError, CacheError or AdapterError before any work, WorkError where a fit failed.

    >>> fitted = mma.fit(cache, adapter="linear-probe", shots=4, seeds=[0, 1], out=folder / "runs")
    >>> len(fitted["linear-probe"].results)
    2
    >>> type(fitted["linear-probe"].adapter(seed=1)).__name__
    'LinearProbe'
    """
    from mma.pipeline.fitting.fit import fit as run
    from mma.pipeline.fitting.settings import AUTO, FitSettings
    from mma.pipeline.options import fields_of
    from mma.pipeline.using.auto import fit_auto

    own = {field.name for field in fields_of(FitSettings)}
    if "target" in options:
        options["target"] = _locations(options["target"])
    settings = {name: value for name, value in options.items() if name in own}
    of_adapter = {name: value for name, value in options.items() if name not in own}
    asked = FitSettings(cache=_locations(cache), options=of_adapter, **settings)
    return (fit_auto if AUTO in asked.adapter else run)(asked, _console(progress))


def ablate(cache: Caches, *, progress: bool = False, **options: Any) -> Grid:
    """A grid over anything `fit` takes: every option may be a list, and the rows are their product.

    `seed` names the seeds; `baseline`, `out`, `workers` and the other options of `mma ablate` are taken as they are.
    Raises as `fit`; a cell that fails is told in the grid and stops no other.

    >>> grid = mma.ablate(cache, adapter="tip-adapter", alpha=[1, 2], beta=1, seed=range(2), shots=2, out=folder / "r")
    >>> [record["alpha"] for record in grid.records() if record["adapter"] == "tip-adapter"]
    [1.0, 1.0, 2.0, 2.0]
    """
    from mma.pipeline.fitting.ablate import ablate as run
    from mma.pipeline.fitting.settings import AblateSettings
    from mma.pipeline.options import fields_of

    own = {field.name for field in fields_of(AblateSettings)}
    if "target" in options:
        options["target"] = _locations(options["target"])
    settings = {name: value for name, value in options.items() if name in own}
    factors = {name: _listed(value) for name, value in options.items() if name not in own}
    return run(AblateSettings(cache=_locations(cache), factors=factors, **settings), _console(progress))


def load_model(folder: str | Path, **options: Any) -> LoadedModel:
    """A model folder that `mma export` wrote, opened and checked: `predict` for images, `predict_embeddings` for rows.

    `options`: `device` (default "auto"), `workers` (threads that decode, default one per core) and, where the encoder's
    name does not find it, `clip` and `pretrained`. Raises UsageError for a
    folder that is not as it was written.

    >>> model = mma.load_model(folder / "model")
    >>> model.classnames[:2]
    ['class 0', 'class 1']
    >>> [answer] = model.predict_embeddings(mma.load_features(cache.location).images.images("test")[:1], top=2)
    >>> answer.label == answer.top[0][0]
    True
    """
    from mma.pipeline.using.load import LoadedModel

    return LoadedModel(folder, **options)


def audit(
    cache: Cache | str | Path,
    *,
    prompts: str = "default",
    reduce: str = "unit",
    near: float = 0.99,
    device: str = "auto",
) -> Audit:
    """What is probably wrong with a labelled cache: labels, twins, images far from everything, texts that confuse.

    The options are those of `mma audit`. Raises UsageError or CacheError for a cache that cannot be looked through.

    >>> mma.audit(cache).rows
    168
    """
    from mma.pipeline.using.audit import audit as run
    from mma.pipeline.using.settings import AuditSettings

    (location,) = _locations(cache)
    return run(AuditSettings(cache=location, prompts=prompts, reduce=reduce, near=near, device=device))


def search(
    cache: Cache | str | Path,
    query: str | Path,
    *,
    top: int = 10,
    split: str | None = None,
    clip: str | None = None,
    pretrained: str | None = None,
    device: str = "auto",
) -> list[Hit]:
    """The images of a cache that are nearest to words, or to the image at a path: the nearest first.

    The options are those of `mma search`. Raises UsageError or CacheError for what cannot be searched.
    """
    from mma.pipeline.using.search import search as run
    from mma.pipeline.using.settings import SearchSettings

    (location,) = _locations(cache)
    asked = SearchSettings(
        cache=location, query=str(query), top=top, split=split, clip=clip, pretrained=pretrained, device=device
    )
    return run(asked)


Caches = Any  # an opened cache, a path or a URL, or several of them


def _locations(cache: Caches) -> tuple[str, ...]:
    several = cache if isinstance(cache, list | tuple) else [cache]
    return tuple(str(getattr(each, "location", each)) for each in several)


def _listed(value: Any) -> Sequence[Any]:
    return [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)


def _console(progress: bool) -> Console:
    from mma.pipeline.console import make_console

    return make_console(stderr=True) if progress else make_console(quiet=True)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mma")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mma' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
