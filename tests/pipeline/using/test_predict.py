"""`mma predict`: images of every kind in, one answer each out, in order."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from mma.cache import open_cache
from mma.pipeline.embedding.clip import FrozenClip
from mma.pipeline.errors import UsageError
from mma.pipeline.using.load import LoadedModel
from mma.pipeline.using.predict import predict
from mma.pipeline.using.settings import PredictSettings
from mma.pipeline.using.source import Encoder

from ...conftest import Run
from ..conftest import photo
from .conftest import exported

Photos = tuple[Path, Path]


@pytest.fixture(scope="session")
def loaded(model: Path, small_clip: str) -> LoadedModel:
    return LoadedModel(model, clip=small_clip, device="cpu")


def run(model: Path, *what: object, **settings: object) -> str:
    """`mma predict` in this process; what it said beside the answers."""
    said = io.StringIO()
    predict(
        PredictSettings(model=model, what=tuple(map(str, what)), device="cpu", **settings),  # type: ignore[arg-type]
        Console(file=said, width=400),
    )
    return said.getvalue()


def records(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_images_have_the_logits_of_the_cache_that_was_made_of_them(loaded: LoadedModel, photos: Photos) -> None:
    folder, cache = photos
    for split in open_cache(cache).header.rows:
        cached = loaded.predict(str(cache), split=split, top=3)
        images = loaded.predict([folder / answer.path for answer in cached], top=3)
        assert [a.top for a in images] == [a.top for a in cached]


@pytest.mark.slow
def test_images_and_texts_are_encoded_with_the_threads_of_the_cache(
    model: Path, small_clip: str, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_cache, own, used = open_cache(photos[1]).header.source["threads"], torch.get_num_threads(), set[int]()
    for name in ("encode_image", "encode_text"):
        true = getattr(FrozenClip, name)
        monkeypatch.setattr(
            FrozenClip, name, lambda *given, true=true: used.add(torch.get_num_threads()) or true(*given)
        )
    (tmp_path / "classes.txt").write_text("lynx\nwolf\n")
    torch.set_num_threads(of_cache + 1)
    try:
        run(model, photos[0], clip=small_clip, classes=tmp_path / "classes.txt")
        assert torch.get_num_threads() == of_cache + 1
    finally:
        torch.set_num_threads(own)
    assert used == {of_cache}


def test_a_folder_a_manifest_a_list_and_shards_are_the_same_images(
    loaded: LoadedModel, photos: Photos, tmp_path: Path
) -> None:
    folder, _ = photos
    files = sorted(folder.rglob("*.jpg"))
    (tmp_path / "m.csv").write_text("path\n" + "".join(f"{f.relative_to(folder)}\n" for f in files))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for number, file in enumerate(files):
            tar.add(file, f"{number:04}.jpg")
    wanted = [answer.top for answer in loaded.predict(folder)]
    assert len(wanted) == 30
    assert [a.top for a in loaded.predict(files)] == wanted
    assert [a.top for a in loaded.predict(tmp_path / "m.csv", root=folder)] == wanted
    assert [a.top for a in loaded.predict(tmp_path / "s.tar")] == wanted
    assert [a.path for a in loaded.predict([folder, files[0]])] == [*map(str, files), str(files[0])]


def test_a_bad_image_is_a_row_with_its_reason(
    model: Path, small_clip: str, photos: Photos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "new").mkdir()
    shutil.copy(photos[0] / "cat" / "0.jpg", tmp_path / "new" / "a.jpg")
    (tmp_path / "new" / "b.jpg").write_text("no image")
    shutil.copy(photos[0] / "cat" / "1.jpg", tmp_path / "new" / "c.jpg")
    said = run(model, tmp_path / "new", clip=small_clip, format="jsonl")
    first, bad, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert bad == {"path": f"{tmp_path}/new/b.jpg", "reason": "not an image file that can be read"}
    assert first["class"] in ("big dog", "bird", "cat")
    assert last["path"].endswith("c.jpg")
    assert "1 of 3 images could not be used" in said


def test_an_image_that_is_none_is_refused(model: Path, small_clip: str, tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_text("no image")
    with pytest.raises(UsageError, match=r"not one of 1 images could be used; .*b\.jpg: not an image file"):
        run(model, tmp_path / "b.jpg", clip=small_clip)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(UsageError, match=r"notes\.txt is not an image, by its name"):
        run(model, tmp_path / "notes.txt", clip=small_clip)


def test_what_is_not_there_and_what_is_empty_is_refused(model: Path, small_clip: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty holds no images"):
        run(model, tmp_path / "empty", clip=small_clip)
    for name in ("gone", "gone.jpg"):
        with pytest.raises(UsageError, match=f"there is no .*{name}"):
            run(model, tmp_path / name, clip=small_clip)


def test_another_encoder_is_refused_before_anything(
    model: Path, other_clip: str, small_cache: Path, photos: Photos, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is of another encoder than the model: weights sha256"):
        run(model, photos[0], clip=other_clip, out=tmp_path / "a.csv")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="does not say which encoder"):
        run(model, small_cache)
    with pytest.raises(UsageError, match="say where that is with `clip=local-dir:FOLDER`"):
        run(model, photos[0])


def test_a_model_of_imported_embeddings_cannot_look_at_images(small_model: Path, photos: Photos) -> None:
    with pytest.raises(UsageError, match="nothing says which encoder made them"):
        run(small_model, photos[0])


@pytest.mark.parametrize("option", ["out", "embeddings"])
def test_a_link_that_was_planted_is_not_written_through(
    option: str, small_model: Path, small_cache: Path, tmp_path: Path
) -> None:
    file = tmp_path / ("a.csv" if option == "out" else "a.npy")
    (tmp_path / "precious").write_text("mine")
    if option == "embeddings":
        file.with_name(f"{file.name}.partial").symlink_to(tmp_path / "precious")
    else:
        file.with_name(f"{file.name}.partial").symlink_to(tmp_path / "new")
    run(small_model, small_cache, **{option: file})
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "new").exists()
    assert file.is_file()
    assert not file.is_symlink()


def test_a_line_without_an_end_on_standard_input_is_refused(
    model: Path, small_clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/zero").open("rb") as endless:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(endless))
        with pytest.raises(UsageError, match="a line of more than 1,048,576 bytes"):
            run(model, "-", clip=small_clip)


def test_csv_and_json_lines_say_the_same(small_model: Path, small_cache: Path, tmp_path: Path) -> None:
    asked = {"top": 2, "coverage": 0.9, "threshold": 0.5}
    run(small_model, small_cache, out=tmp_path / "a.csv", **asked)
    run(small_model, small_cache, out=tmp_path / "a.jsonl", **asked)
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 168
    for row, record in zip(rows, records(tmp_path / "a.jsonl"), strict=True):
        top = record["top"]
        assert isinstance(top, list)
        assert [(row["class"], float(row["probability"])), (row["class_2"], float(row["probability_2"]))] == [
            (each["class"], each["probability"]) for each in top
        ]
        assert json.loads(row["lac"]) == record["lac"]
        assert (row["abstained"] == "true") == record["abstained"] == (top[0]["probability"] < 0.5)
        assert (record["class"] is None) == record["abstained"]
        assert top[0]["class"] in record["lac"]  # type: ignore[operator]


def test_interrupted_the_same_command_continues_to_the_same_file(
    small_model: Path, small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mma.pipeline.using import source

    monkeypatch.setattr(source, "EVAL_BATCH", 16)
    whole, out, kept = tmp_path / "whole.csv", tmp_path / "a.csv", tmp_path / "a.npy"
    run(small_model, small_cache, out=whole, embeddings=tmp_path / "whole.npy")
    from mma.pipeline.using.output import Written

    write, calls = Written.write, []

    def stop(self: Written, answers: list) -> None:
        calls.append(len(answers))
        if len(calls) == 4:
            self.stream.write(b"half a li")
            self.stream.flush()
            raise KeyboardInterrupt
        write(self, answers)

    monkeypatch.setattr(Written, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        run(small_model, small_cache, out=out, embeddings=kept)
    assert not out.exists()
    monkeypatch.setattr(Written, "write", write)
    with pytest.raises(UsageError, match="answers something else"):
        run(small_model, small_cache, out=out, top=2)
    with pytest.raises(UsageError, match="answers something else"):
        run(small_model, small_cache, out=out, embeddings=kept, split="test")
    said = run(small_model, small_cache, out=out, embeddings=kept)
    assert f"{sum(calls[:3])} of 168 are there, and it continues" in said
    assert out.read_bytes() == whole.read_bytes()
    assert kept.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.npy", "whole.csv", "whole.npy"]
    with pytest.raises(UsageError, match="is there"):
        run(small_model, small_cache, out=out)


def test_kept_embeddings_give_the_same_answers(
    loaded: LoadedModel, model: Path, small_clip: str, photos: Photos, tmp_path: Path
) -> None:
    run(model, photos[0], clip=small_clip, embeddings=tmp_path / "e.npy", out=tmp_path / "a.jsonl")
    kept = np.load(tmp_path / "e.npy")
    assert np.linalg.norm(kept, axis=1) == pytest.approx(np.ones(30), abs=1e-5)
    assert [a.top for a in loaded.predict_embeddings(kept)] == [a.top for a in loaded.predict(photos[0])]


def test_other_classes_are_scored_by_the_templates_of_the_model(
    loaded: LoadedModel, photos: Photos, small_model: Path, small_cache: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("cat\nbig dog\nbird\n")
    own, other = loaded.predict(photos[0], top=3), loaded.predict(photos[0], classes=names, top=3)
    assert not any(answer.calibrated for answer in other)
    assert [a.label for a in other] == [a.label for a in own]
    per_class = exported(tmp_path / "m", cache=str(small_cache), adapter="linear-probe", shots=2)
    with pytest.raises(UsageError, match="linear-probe has weights for its 7 classes and cannot score others"):
        run(per_class, small_cache, classes=names)
    with pytest.raises(UsageError, match="are not templates"):
        run(small_model, small_cache, classes=names)
    with pytest.raises(UsageError, match="measured for the model's own classes"):
        loaded.predict(photos[0], classes=names, coverage=0.5)
    names.write_text("cat\ncat\n")
    with pytest.raises(UsageError, match="has 'cat' twice"):
        loaded.predict(photos[0], classes=names)


@pytest.mark.slow
def test_sets_hold_the_right_class_as_often_as_asked(dtd_cache: Path, tmp_path: Path) -> None:
    folder = exported(tmp_path / "m", cache=str(dtd_cache), adapter="gda", shots=8)
    answers = LoadedModel(folder, device="cpu").predict(str(dtd_cache), split="test", coverage=0.9)
    label = open_cache(dtd_cache).split("test").label
    names = open_cache(dtd_cache).header.classnames
    for method in ("lac", "aps"):
        held = [names[k] in answer.sets[method] for k, answer in zip(label, answers, strict=True)]
        assert 0.87 < np.mean(held) < 0.95
        assert np.mean([len(answer.sets[method]) for answer in answers]) < 20


@pytest.mark.parametrize("coverage", [0.0, 1.0, 2.0, -1.0])
def test_a_coverage_that_is_no_share_is_refused(small_model: Path, small_cache: Path, coverage: float) -> None:
    with pytest.raises(UsageError, match="coverage"):
        run(small_model, small_cache, coverage=coverage)


def test_a_coverage_that_the_validation_images_do_not_allow_is_refused(small_model: Path, small_cache: Path) -> None:
    with pytest.raises(UsageError, match="needs 99 validation images, and the model was measured with 21"):
        run(small_model, small_cache, coverage=0.99)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((2, 32)), r"row 0 of the embeddings has length 5\.66"),
        (np.full((1, 32), np.nan), "has length nan"),
        (np.eye(16), r"have the shape \[16, 16\]: the model takes \[N, 32\]"),
        (np.ones(32), r"have the shape \[32\]"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(small_model: Path, rows: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LoadedModel(small_model).predict_embeddings(rows)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(
    loaded: LoadedModel, model: Path, small_clip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that are alive at any time are few, whatever their number."""
    import gc
    import weakref

    from mma.pipeline.using.score import Scorer

    (tmp_path / "one.jpg").write_bytes(photo(1))
    (tmp_path / "m.csv").write_text("path\n" + "one.jpg\n" * 450)
    alive: list[weakref.ref] = []
    most = 0
    score = Scorer.score

    def watched(self: Scorer, paths: list[str], image: object, reasons: dict[int, str]) -> list:
        nonlocal most
        alive.append(weakref.ref(image))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return score(self, paths, image, reasons)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "score", watched)
    run(model, tmp_path / "m.csv", clip=small_clip, out=tmp_path / "a.csv")
    assert len(alive) > 6
    assert most <= 2
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 451


def test_the_encoder_is_not_loaded_for_a_cache(
    small_model: Path, small_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "_load", lambda _: pytest.fail("loaded"))
    run(small_model, small_cache)


def test_the_command_answers_and_refuses_in_one_line(
    mma_here: Run, model: Path, small_model: Path, small_cache: Path, photos: Photos, small_clip: str, tmp_path: Path
) -> None:
    done = mma_here("predict", model, photos[0], "--clip", small_clip, "--top", "2", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 30
    for words, message in (
        ((small_model, small_cache, "--coverage", "2"), "--coverage 2: it must be from 0 to 1"),
        ((tmp_path, small_cache), "is not a model: it has no model.json"),
        ((small_model, small_cache, "--classes", tmp_path / "none.txt"), "--classes"),
        ((small_model, small_cache, "--format", "xml"), "unknown format 'xml'"),
    ):
        refused = mma_here("predict", *words)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
        assert message in refused.stderr


def test_paths_come_on_standard_input(
    mma_here: Run, model: Path, small_clip: str, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = f"{photos[0]}/cat/1.jpg\n{tmp_path}/gone.jpg\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(paths.encode())))
    done = mma_here("predict", model, "-", "--clip", small_clip, "--format", "csv", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    _, first, second = done.stdout.splitlines()
    assert first.startswith(f"{photos[0]}/cat/1.jpg,")
    assert second == f"{tmp_path}/gone.jpg,,,No such file or directory"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    assert "no path came on standard input" in mma_here("predict", model, "-", "--clip", small_clip).stderr


def test_why_names_the_nearest_shots_and_the_margin_over_every_class(
    small_model: Path, small_cache: Path, tmp_path: Path
) -> None:
    asked = {"split": "test", "why": True}
    run(small_model, small_cache, out=tmp_path / "a.jsonl", **asked)
    run(small_model, small_cache, out=tmp_path / "a.csv", **asked)
    model, found = LoadedModel(small_model, device="cpu"), records(tmp_path / "a.jsonl")
    cache = open_cache(small_cache)
    known = {path: row for row, path in enumerate(cache.split("train").path)}
    unit = {s: _unit(cache.split(s).embedding[:, 0].astype(np.float32)) for s in ("train", "test")}
    logits = model.logits(unit["test"])
    for row, answer in enumerate(found):
        near, margins = answer["nearest"], answer["margins"]
        assert isinstance(near, list)
        assert isinstance(margins, dict)
        wanted = [unit["train"][known[shot["path"]]] @ unit["test"][row] for shot in near]
        assert [shot["cosine"] for shot in near] == pytest.approx(wanted, abs=2e-3)
        assert wanted == sorted(wanted, reverse=True)
        best = logits[row].max()
        assert {**margins, answer["class"]: 0} == pytest.approx(
            dict(zip(model.classnames, best - logits[row], strict=True)), abs=1e-4
        )
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert [json.loads(row["nearest"]) for row in csv.DictReader(stream)] == [a["nearest"] for a in found]
    assert model.why(str(small_cache), split="test")[0].why is not None


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_shots_are_left_out_where_that_is_asked(small_cache: Path, tmp_path: Path) -> None:
    folder = exported(tmp_path / "m", cache=str(small_cache), adapter="gda", shots=4, without_shots=True)
    assert "the model holds no shots" in run(folder, small_cache, why=True, out=tmp_path / "a.csv")
    (answer,) = LoadedModel(folder).predict_embeddings(np.eye(1, 32), why=True)
    assert answer.why is not None
    assert answer.why.shots == ()
    assert len(answer.why.margins) == 6


def test_images_at_urls_are_those_of_the_disk(loaded: LoadedModel, photos: Photos, small_model: Path) -> None:
    import functools
    import threading
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    import fsspec

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    folder, _ = photos
    wanted = [answer.top for answer in loaded.predict(folder / "cat")]
    assert [a.top for a in loaded.predict((folder / "cat").as_uri())] == wanted
    memory = fsspec.filesystem("memory")
    for file in sorted((folder / "cat").iterdir()):
        memory.pipe(f"/cat/{file.name}", file.read_bytes())
    memory.pipe("/bad/a.jpg", b"no image")
    assert [a.top for a in loaded.predict("memory://cat")] == wanted
    (bad,) = loaded.predict("memory://bad/a.jpg")
    assert (bad.path, bad.reason) == ("memory:///bad/a.jpg", "not an image file that can be read")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        where = f"http://127.0.0.1:{server.server_port}"
        assert [a.top for a in loaded.predict(f"{where}/cat")] == wanted
        assert [a.top for a in loaded.predict(f"{where}/cat/3.jpg")] == [
            loaded.predict(folder / "cat" / "3.jpg")[0].top
        ]
        for url in (f"{where}/none", f"{where}/none.jpg", "memory://nothing", "gopher://cat"):
            with pytest.raises(UsageError, match=url.partition(":")[0]) as refused:
                loaded.predict(url)
            assert "\n" not in str(refused.value)
    finally:
        server.shutdown()
        server.server_close()


def test_encoded_images_at_hand_are_answered_as_files(loaded: LoadedModel, photos: Photos) -> None:
    files = sorted((photos[0] / "cat").iterdir())
    good, bad = loaded.predict_bytes([files[0].read_bytes(), b"no image"])
    assert good.top == loaded.predict(files[0])[0].top
    assert bad.reason == "not an image file that can be read"
