"""What `mma export` fits is what `mma fit` fits, and then more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mma.adapters import adapter_class, adapters
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import load_features
from mma.pipeline.using.load import LoadedModel
from mma.pipeline.using.model import open_model

from .conftest import exported

TEST_TIME = ("tda", "dmn", "rada-ttt", "transclip", "transclip-fs")
PENULTIMATE = ("prolip", "rada-projections")
SERVED = [name for name in adapters() if name not in (*TEST_TIME, *PENULTIMATE)]
FEW_EPOCHS = {"epochs": 3}


def recipe(name: str) -> dict[str, int]:
    return FEW_EPOCHS if adapter_class(name).trains else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
def test_an_exported_run_says_of_every_test_image_what_fit_recorded(
    name: str, small_cache: Path, tmp_path: Path
) -> None:
    import mma

    fitted = mma.fit(
        small_cache, adapter=name, protocol="few-shot", shots=3, seeds=[1], out=tmp_path / "runs", **recipe(name)
    )
    (result,) = fitted[name].results
    (recorded,) = result.predictions
    (run,) = (tmp_path / "runs").glob(f"{name}-{fitted[name].setting.id}")
    folder = exported(tmp_path / "model", run=run, seed=result.cell.seed)
    model = LoadedModel(folder, device="cpu")
    answers = model.predict(str(small_cache), split="test")
    assert [answers[row].label for row in recorded.rows] == [model.classnames[k] for k in recorded.predicted]
    test = load_features(small_cache).images.images("test").numpy()
    again = model.predict_embeddings(test)
    assert [answer.top for answer in again] == [answer.top for answer in answers]


@pytest.mark.parametrize("name", TEST_TIME)
def test_an_adapter_that_learns_from_test_images_says_that_it_cannot(
    name: str, small_cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"{name} learns from the images that it is asked about"):
        exported(tmp_path / "model", cache=str(small_cache), adapter=name)


@pytest.mark.parametrize("name", PENULTIMATE)
def test_an_adapter_that_reads_features_says_that_it_cannot(name: str, small_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"^{name} reads features before the towers' last layer.*cannot be exported"):
        exported(tmp_path / "model", cache=str(small_cache), adapter=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gda", "taskres", "clip-adapter"])
def test_from_a_cache_with_shots_it_is_the_model_of_that_run(name: str, small_cache: Path, tmp_path: Path) -> None:
    import mma

    fitted = mma.fit(
        small_cache, adapter=name, protocol="few-shot", shots=3, seeds=[1], out=tmp_path / "runs", **recipe(name)
    )
    (run,) = (tmp_path / "runs").glob(f"{name}-{fitted[name].setting.id}")
    one = exported(tmp_path / "one", run=run, seed=1)
    two = exported(tmp_path / "two", cache=str(small_cache), adapter=name, shots=3, seed=1, options=recipe(name))
    for file in ("model.json", "weights.safetensors", "README.md"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVED)
def test_all_labelled_images_are_fitted_on_with_the_choices_made_before(
    name: str, small_cache: Path, tmp_path: Path
) -> None:
    folder = exported(tmp_path / "all", cache=str(small_cache), adapter=name, options=recipe(name))
    model = open_model(folder)
    if not adapter_class(name).few_shot:
        assert model.about.fitted["rows"] == {}
        return
    assert model.about.fitted["rows"] == {"train": 70, "val": 28}
    assert model.adapter.shapes.rows == 98
    for option, value in model.about.fitted["chosen"].items():
        assert model.about.options[option] == value
    chosen, left_open = model.about.fitted["chosen"], adapter_class(name)()
    assert set(left_open.open_options()) <= chosen.keys()
    assert all(getattr(left_open, option) is None for option in chosen)


@pytest.mark.slow
def test_test_images_are_fitted_on_if_asked(small_cache: Path, tmp_path: Path) -> None:
    folder = exported(tmp_path / "all", cache=str(small_cache), adapter="gda", with_test=True)
    assert open_model(folder).about.fitted["rows"] == {"train": 70, "val": 28, "test": 70}


@pytest.mark.slow
def test_without_a_val_split_a_fifth_of_every_class_chooses(tmp_path: Path) -> None:
    from mma.cache import import_npz

    from ...conftest import small_features

    arrays = {name: array for name, array in small_features().items() if not name.endswith("_val")}
    np.savez(tmp_path / "f.npz", **arrays)
    cache = import_npz(tmp_path / "f.npz", tmp_path / "f.zarr", logit_scale=20.0)
    about = open_model(exported(tmp_path / "m", cache=str(cache), adapter="gda")).about
    assert about.fitted["rows"] == {"train": 70}
    assert about.validation["rows"] == 14


@pytest.mark.slow
def test_calibration_comes_from_images_that_the_fit_has_not_seen_where_there_are_such(
    small_cache: Path, tmp_path: Path
) -> None:
    about = open_model(exported(tmp_path / "m", cache=str(small_cache), adapter="gda", shots=3)).about
    assert about.calibration
    assert about.validation["rows"] == 70 + 28 - 7 * 3 - 7 * 3
    assert not about.calibration.selected_on
    every = open_model(exported(tmp_path / "n", cache=str(small_cache), adapter="gda")).about
    assert every.calibration
    assert every.calibration.selected_on
    assert "chosen on the same images" in (tmp_path / "n" / "README.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"adapter": "gda"}, "cache is missing"),
        ({"cache": "x"}, "adapter is missing"),
        ({"run": "x", "adapter": "gda"}, "adapter is decided by the run"),
        ({"run": "x", "shots": 4}, "shots is decided by the run"),
        ({"cache": "x", "adapter": "gda", "shots": 4, "with_test": True}, "leave out `shots=4`"),
        ({"cache": "x", "adapter": "gda", "shots": "some"}, "is not a whole number"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        exported(tmp_path / "m", **given)


def test_a_run_of_another_cache_is_refused(small_cache: Path, tmp_path: Path) -> None:
    import mma
    from mma.cache import import_npz

    from ...conftest import small_features

    fitted = mma.fit(small_cache, adapter="gda", protocol="few-shot", shots=2, seeds=1, out=tmp_path / "runs")
    np.savez(tmp_path / "f.npz", **small_features(seed=1))
    other = import_npz(tmp_path / "f.npz", tmp_path / "f.zarr", logit_scale=20.0)
    run = tmp_path / "runs" / f"gda-{fitted['gda'].setting.id}"
    with pytest.raises(UsageError, match="is not the cache that"):
        exported(tmp_path / "m", run=run, cache=str(other))


def test_a_model_of_base_classes_knows_those_alone(small_cache: Path, tmp_path: Path) -> None:
    import mma

    fitted = mma.fit(small_cache, adapter="gda", protocol="base-to-new", shots=2, seeds=1, out=tmp_path / "runs")
    run = tmp_path / "runs" / f"gda-{fitted['gda'].setting.id}"
    model = open_model(exported(tmp_path / "m", run=run))
    assert model.about.classnames == [f"class {k}" for k in range(4)]
