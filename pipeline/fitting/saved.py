"""A fit that `mma fit` saved: one seed of a run's folder, with the data it was fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mma.adapters import Adapter, from_bytes
from mma.pipeline.device import pick_device
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.cells import Choice, Setting, resolve
from mma.pipeline.fitting.episodes import Episode
from mma.pipeline.fitting.features import Address, Features, Loader
from mma.pipeline.fitting.protocols import make_protocol
from mma.pipeline.regular_files import read_json, read_regular

MOST_WEIGHTS = 2**33  # bytes


@dataclass(frozen=True)
class SavedFit:
    """A fitted adapter, its setting (without targets) and seed, its data, and the details of its training."""

    features: Features
    setting: Setting
    seed: int
    adapter: Adapter
    details: Mapping[str, Any]

    def episode(self) -> Episode:
        """The rows that it was fitted on, chosen on and scored on."""
        return self.features.images.episode(self.setting.protocol, self.seed, self.setting.select == "val", ())


def saved_fit(folder: Path, seed: int, cache: str | None = None, device: str = "auto") -> SavedFit:
    """Read a seed of runs/<adapter>-<id>; `cache`: where its data lie now, if elsewhere.

    Raises UsageError where the folder or the data are not what they were, CacheError for a cache that is damaged,
    AdapterError for weights that are.
    """
    try:
        config = read_json(folder / "config.json")
        weights = read_regular(folder / f"weights-{seed}.safetensors", MOST_WEIGHTS)
        metrics = read_json(folder / "metrics.json").get(str(seed), {})
    except (OSError, ValueError) as error:
        what = getattr(error, "filename", None) or folder
        raise UsageError(
            f"{what} cannot be read ({getattr(error, 'strerror', None) or error}): a run is the folder "
            "runs/<adapter>-<id> of `mma fit`, and `seed=N` one of its seeds"
        ) from error
    try:
        data = config["data"]
        where = cache or config["cache_path"]
        address = Address(where, data["prompts"], data["reduce"], pick_device(device).type)
        protocol = make_protocol(config["protocol"]["name"], config["protocol"])
        choice = Choice(config["adapter"], protocol, config["options"], config["recipe"] or {}, "val")
        select, known = config["select"], data["digest"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / 'config.json'} is not that of a fit ({error})") from error
    features = Loader().features(address)
    if features.data.digest != known:
        raise UsageError(f"{address.cache} is not the cache that {folder} was fitted on: give it with `cache=PATH`")
    setting = replace(resolve(choice, features.data), select=select)
    return SavedFit(features, setting, seed, from_bytes(weights), metrics)
