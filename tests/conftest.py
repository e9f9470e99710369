from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads do not spin where cores are shared; before torch

from mma.cache import claim, import_npz, objects
from mma.pipeline.cli.main import main

from .forked import start
from .object_store import ObjectStore, nothing

COMMAND = str(Path(sys.executable).with_name("mma"))  # as installed

Run = Callable[..., subprocess.CompletedProcess[str]]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job; commands inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: what is marked slow runs at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data: golden numbers and real CLIP features; no part of the repository."""
    folder = Path(os.environ.get("MMA_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not folder.is_dir():
        pytest.skip(f"the reference data is not at {folder} (set MMA_SHARED)")
    return folder


@pytest.fixture
def mma(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The command in a process of its own: mma("fit", "--cache", path, cwd=folder)."""
    said = tmp_path_factory.mktemp("said")

    def run(*words: object, cwd: Path, first: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        process = start(words, cwd, said / "out", said / "err", first, COLUMNS="200", **env)
        process.join()
        out, err = ((said / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return subprocess.CompletedProcess(words, process.exitcode or 0, out, err)

    return run


@pytest.fixture
def mma_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, which spares the seconds that importing torch takes."""

    def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["mma", *map(str, words)])
        if cwd:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        code = exit_.value.code if isinstance(exit_.value.code, int) else 0
        return subprocess.CompletedProcess(words, code, captured.out, captured.err)

    return run


def small_features(classes: int = 7, dim: int = 32, rows: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    """Image features scattered about class texts: what an .npz for `mma cache import` holds."""
    rng = np.random.default_rng(seed)
    text = rng.standard_normal((classes, dim)).astype(np.float32)
    shift = 0.8 * rng.standard_normal(dim)
    arrays: dict[str, np.ndarray] = {"text": text, "classnames": np.array([f"class {c}" for c in range(classes)])}
    for split, each in (("train", rows), ("val", 4), ("test", rows)):
        label = np.repeat(np.arange(classes), each)
        noise = 1.5 * rng.standard_normal((len(label), dim))
        arrays[f"image_{split}"] = (text[label] + shift + noise).astype(np.float16)
        arrays[f"label_{split}"] = label.astype(np.int32)
    return arrays


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of 7 classes with train, val and test splits, named after a published data set."""
    folder = tmp_path_factory.mktemp("small")
    np.savez(folder / "shapes-small.npz", **small_features())
    return import_npz(folder / "shapes-small.npz", folder / "small.zarr", logit_scale=20.0)


@pytest.fixture(scope="session")
def dtd_cache(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real CLIP features of DTD."""
    return import_npz(shared / "features/dtd_vitb32.npz", tmp_path_factory.mktemp("dtd") / "dtd.zarr")


@pytest.fixture(scope="session")
def cars_cache(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real CLIP features of Stanford Cars."""
    return import_npz(shared / "features/stanford_cars_vitb32.npz", tmp_path_factory.mktemp("cars") / "cars.zarr")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[ObjectStore]:
    """An S3 server with a bucket, s3://bucket."""
    server = ObjectStore()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """The server, found in the environment, without faults; clients that try again at once, and claims that expire."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "PAUSE", 0.01)
    backoff = {"init_backoff": timedelta(milliseconds=5), "max_backoff": timedelta(milliseconds=20), "base": 2}
    monkeypatch.setattr(objects, "RETRIES", {"max_retries": 3, "backoff": backoff})
    monkeypatch.setattr(claim, "BEAT", 0.1)
    monkeypatch.setattr(claim, "WATCH", 0.4)
    s3_server.fault = nothing
    objects._open_store.cache_clear()
    yield s3_server
    s3_server.fault = nothing
    objects._open_store.cache_clear()
