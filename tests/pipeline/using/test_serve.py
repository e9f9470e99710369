"""docs/serve.md: both services are started as the page says, and asked."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mma.pipeline.using.load import LoadedModel

from ...conftest import Run
from .test_docs import drawn

PAGE = Path(__file__).resolve().parents[3] / "docs" / "serve.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's files are, and the images."""
    here = tmp_path_factory.mktemp("serve")
    drawn(here / "photos", 10, 0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in zip(("serve.py", "serve_onnx.py"), blocks, strict=True):
        (here / name).write_text(text)
    return here


def asked(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@contextmanager
def started(folder: Path, *command: str) -> Iterator[str]:
    """A service of the page; the URL it listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("PORT", str(port)) for word in command]
    process = subprocess.Popen([sys.executable, *words], cwd=folder, env={**os.environ, "MODEL": "models/photos"})
    try:
        for _ in range(600):
            assert process.poll() is None, "the service ended"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.slow
def test_both_services_answer_as_the_model_and_refuse_what_is_no_image(
    folder: Path, mma_here: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fastapi", "uvicorn", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.chdir(folder)
    (commands,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in commands.splitlines():
        done = mma_here(*line.split()[1:])
        assert done.returncode == 0, done.stderr
    images = [(folder / "photos" / name / "0.png") for name in ("red_circle", "blue_star")]
    wanted = LoadedModel(folder / "models" / "photos", device="cpu").predict(images)
    with started(folder, "-m", "uvicorn", "serve:app", "--port", "PORT") as url:
        for image, answer in zip(images, wanted, strict=True):
            code, said = asked(f"{url}/predict", image.read_bytes())
            assert (code, said["class"]) == (200, answer.label)
            assert said["top"][0][1] == pytest.approx(answer.top[0][1], abs=1e-6)
        assert asked(f"{url}/predict", b"no image") == (422, {"error": "not an image file that can be read"})
        assert asked(f"{url}/predict?top=none", images[0].read_bytes())[0] == 400
        assert asked(f"{url}/predict", bytes(20_000_001))[0] == 413
    with started(folder, "serve_onnx.py", "models/photos", "PORT") as url:
        for image, answer in zip(images, wanted, strict=True):
            code, said = asked(url, image.read_bytes())
            assert (code, said["class"]) == (200, answer.label)
            assert said["probability"] == pytest.approx(answer.top[0][1], abs=0.02)
        assert asked(url, b"no image")[0] == 422
        assert asked(url, b"")[0] == 413
