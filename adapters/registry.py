"""Adapters by name. Adding one is a file in this folder and a line here; another package registers its own through the
entry point group `mma.adapters` (name = "package.module:Class"). One in a file of a user's own is FILE.py:CLASS.
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import entry_points

from mma.adapters.ape import AdaptivePriorRefinement
from mma.adapters.ape_t import TrainedPriorRefinement
from mma.adapters.base import Adapter, AdapterError
from mma.adapters.clap import ClassAdaptiveProbe
from mma.adapters.clip_adapter import ClipAdapter
from mma.adapters.cross_modal import CrossModalProbe
from mma.adapters.dmn import DynamicMemory
from mma.adapters.from_file import class_in_file, is_in_file, name_in_file, short_name
from mma.adapters.gda import GaussianDiscriminant
from mma.adapters.kron_ridge import KroneckerRidge
from mma.adapters.lfa import LinearFeatureAlignment
from mma.adapters.linear_probe import LinearProbe
from mma.adapters.lp_plus_plus import LinearProbePlusPlus
from mma.adapters.mm_mlp import MultiModalMLP
from mma.adapters.mma import MultiModalAdapter
from mma.adapters.options import options_of
from mma.adapters.proker import ProximalKernelRidge
from mma.adapters.prolip import ProLIP
from mma.adapters.rada import RAda
from mma.adapters.rada_adapter import RAdaAdapter
from mma.adapters.rada_projections import RAdaProjections
from mma.adapters.rada_ttt import RAdaTestTime
from mma.adapters.rla import RegularisedLinear
from mma.adapters.ss_text import SimpleShotText
from mma.adapters.taskres import TaskRes
from mma.adapters.tda import TrainingFreeDynamicAdapter
from mma.adapters.tip_adapter import TipAdapter, TipAdapterF
from mma.adapters.transclip import TransClip
from mma.adapters.transclip_fs import TransClipShots
from mma.adapters.zero_shot import ZeroShot

BUILT_IN: dict[str, type[Adapter]] = {
    "zero-shot": ZeroShot,
    # learned, class-free
    "mma": MultiModalAdapter,
    "mm-mlp": MultiModalMLP,
    "clip-adapter": ClipAdapter,
    "rada": RAda,
    "rada-adapter": RAdaAdapter,
    "rla": RegularisedLinear,
    "lfa": LinearFeatureAlignment,
    "prolip": ProLIP,
    "rada-projections": RAdaProjections,
    # learned, per class
    "linear-probe": LinearProbe,
    "taskres": TaskRes,
    "lp++": LinearProbePlusPlus,
    "clap": ClassAdaptiveProbe,
    "cross-modal": CrossModalProbe,
    "tip-adapter-f": TipAdapterF,
    "ape-t": TrainedPriorRefinement,
    # closed form
    "tip-adapter": TipAdapter,
    "gda": GaussianDiscriminant,
    "proker": ProximalKernelRidge,
    "kron-ridge": KroneckerRidge,
    "ape": AdaptivePriorRefinement,
    "ss-text": SimpleShotText,
    # on unlabelled test rows
    "tda": TrainingFreeDynamicAdapter,
    "dmn": DynamicMemory,
    "rada-ttt": RAdaTestTime,
    "transclip": TransClip,
    "transclip-fs": TransClipShots,
}


def adapters() -> dict[str, type[Adapter]]:
    """Every adapter by name, zero-shot first; a built-in name cannot be taken."""
    return registered()[0]


def adapter_class(name: str) -> type[Adapter]:
    """The adapter of that name, or the class of FILE.py:CLASS. Raises AdapterError with the names there are, or with
    what is wrong with this one.
    """
    if is_in_file(name):
        return _in_file(name)
    sound, broken = registered()
    if name in broken:
        raise AdapterError(f"the adapter {name!r} of another package cannot be used: {broken[name]}")
    if name not in sound:
        near = difflib.get_close_matches(name.lower().replace("_", "-"), sound, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise AdapterError(f"unknown adapter {name!r}{hint} (known: {', '.join(sound)})")
    return sound[name]


def name_of(adapter: Adapter) -> str:
    """The name by which `adapter_class` finds an adapter's class. Raises AdapterError if it has none."""
    if in_file := name_in_file(type(adapter)):
        return in_file
    for name, kind in adapters().items():
        if kind is type(adapter):
            return name
    raise AdapterError(f"{type(adapter).__name__} is not registered")


def title(adapter: Adapter) -> str:
    """What messages call an adapter: its short name, or its class if it has none."""
    known = type(adapter) in adapters().values() or name_in_file(type(adapter))
    return short_name(name_of(adapter)) if known else type(adapter).__name__


@cache
def registered() -> tuple[dict[str, type[Adapter]], dict[str, str]]:
    """The adapters, and of those of other packages that cannot be loaded, why: they are no trouble until asked for."""
    sound, broken = dict(BUILT_IN), dict[str, str]()
    for entry in entry_points(group="mma.adapters"):
        if entry.name in sound:
            raise AdapterError(f"{entry.value} registers an adapter as {entry.name!r}, a name that is taken")
        try:
            kind = entry.load()
            if not (isinstance(kind, type) and issubclass(kind, Adapter)):
                raise TypeError(f"{entry.value} is not a subclass of Adapter")
            options_of(kind)
        except Exception as error:
            broken[entry.name] = f"{type(error).__name__}: {error}"
        else:
            sound[entry.name] = kind
    return sound, broken


def _in_file(name: str) -> type[Adapter]:
    kind, short = class_in_file(name), short_name(name)
    if short in registered()[0]:
        raise AdapterError(f"{name} would be called {short}, a name that is taken: give the class another name")
    try:
        options_of(kind)
    except Exception as error:
        raise AdapterError(f"{name}: its options cannot be read ({type(error).__name__}: {error})") from error
    return kind
