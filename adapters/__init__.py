"""Adapters: one file for each method. They know torch, and no cache and no data set."""

from mma.adapters.base import (
    Adapter,
    AdapterError,
    NamedRecipe,
    PerClassAdapter,
    Projection,
    Projections,
    Recipe,
    Shapes,
    Support,
    check_share,
    unit,
    zero_shot_logits,
)
from mma.adapters.from_file import reference, short_name
from mma.adapters.options import AdapterOption, options_of
from mma.adapters.registry import adapter_class, adapters, name_of
from mma.adapters.storage import from_bytes, to_bytes
from mma.adapters.training import History, Labelled, accuracy, begin, fit, predict, train

__all__ = [
    "Adapter",
    "AdapterError",
    "AdapterOption",
    "History",
    "Labelled",
    "NamedRecipe",
    "PerClassAdapter",
    "Projection",
    "Projections",
    "Recipe",
    "Shapes",
    "Support",
    "accuracy",
    "adapter_class",
    "adapters",
    "begin",
    "check_share",
    "fit",
    "from_bytes",
    "name_of",
    "options_of",
    "predict",
    "reference",
    "short_name",
    "to_bytes",
    "train",
    "unit",
    "zero_shot_logits",
]
