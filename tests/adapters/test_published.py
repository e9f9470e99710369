from __future__ import annotations

from pathlib import Path

import pytest

from mma.adapters import adapter_class
from mma.adapters.published import PUBLISHED, published_options

DESCRIBED = {path.stem for path in (Path(__file__).resolve().parents[2] / "pipeline" / "datasets").rglob("*.toml")}


@pytest.mark.parametrize(("adapter", "dataset"), [(name, data) for name, sets in PUBLISHED.items() for data in sets])
def test_published_values_are_options_of_the_adapter_on_a_data_set_that_is_known(adapter: str, dataset: str) -> None:
    assert dataset in DESCRIBED
    options = published_options(adapter, dataset)
    made = adapter_class(adapter)(**options).options()
    assert options.items() <= made.items()


def test_without_published_values_nothing_is_set() -> None:
    assert published_options("tip-adapter-f", "shapes") == published_options("clap", "dtd") == {}
