"""Prompt sets: what they hold, how they are read and refused, how they are reduced, and what noise does to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mma.adapters import unit
from mma.cache import CacheError
from mma.pipeline.embedding.prompt_noise import misnamed, misspelt, shuffled
from mma.pipeline.embedding.prompts import PromptSet, check_prompts, filled, read_prompts
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.features import reduce_prompts

CLASSES = ("apple pie", "baby back ribs", "baklava")
OWN = ("a photo of {}, a type of food.",)


def read(spec: str, *templates: str) -> tuple[PromptSet, ...]:
    return read_prompts(spec, templates, CLASSES, OWN)


def refused(spec: str, *templates: str) -> str:
    with pytest.raises((UsageError, CacheError)) as told:
        read(spec, *templates)
    assert "\n" not in str(told.value)
    return str(told.value)


def test_named_sets_hold_the_templates_people_mean() -> None:
    default, photo, simple, ensemble = read("default,photo,simple,ensemble")
    assert default.templates == OWN
    assert default.texts[1] == ("a photo of baby back ribs, a type of food.",)
    assert photo.texts[0] == ("a photo of a apple pie.",)
    assert len(simple.templates) == 7
    assert len(ensemble.templates) == 80
    for prompts, theirs in (
        (simple, open_clip.SIMPLE_IMAGENET_TEMPLATES),
        (ensemble, open_clip.OPENAI_IMAGENET_TEMPLATES),
    ):
        assert prompts.texts == tuple(tuple(template(name) for template in theirs) for name in CLASSES)


def test_templates_of_ones_own_are_given_as_text_or_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a {}.\n\nthe {}.\n")
    (given,) = read("mine", str(tmp_path / "mine.txt"), "my {}.")
    assert (given.name, given.templates) == ("mine", ("a {}.", "the {}.", "my {}."))
    (named,) = read(f"mine={tmp_path / 'mine.txt'}")
    assert named.templates == ("a {}.", "the {}.")
    assert filled("mine", named.templates, ["x", "y"]).flat() == ["a x.", "the x.", "a y.", "the y."]


def test_sentences_of_a_class_may_be_more_than_of_another(tmp_path: Path) -> None:
    sentences = {"Apple_Pie": ["A pie of apples."], "baby back ribs": ["Ribs.", "Glazed  ribs."], "baklava": "Sweet."}
    (tmp_path / "cupl.json").write_text(json.dumps({**sentences, "waffles": ["Not asked for."]}))
    (cupl,) = read(f"cupl={tmp_path / 'cupl.json'}")
    assert cupl.texts == (("A pie of apples.",), ("Ribs.", "Glazed ribs."), ("Sweet.",))
    assert len(cupl.templates) == 2
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    shaped = cupl.shaped(rows)
    assert shaped.shape == (3, 2, 2)
    np.testing.assert_array_equal(shaped[1], rows[1:3])
    np.testing.assert_array_equal(np.isnan(shaped).all(axis=2), [[False, True], [False, False], [False, True]])
    (tmp_path / "cupl.json").write_text(json.dumps({**sentences, "baklava": ["Sticky."]}))
    assert read(f"cupl={tmp_path / 'cupl.json'}")[0].templates != cupl.templates  # other sentences, another result


WRONG = {
    "nothing": ("", (), "no prompt set is named"),
    "an unknown name": ("defualt", (), "did you mean default"),
    "an unknown noise": ("typo0", (), "unknown prompt set 'typo0'"),
    "noise of an unknown set": ("foto-typo10", (), "unknown prompt set 'foto'"),
    "a published set without its file": ("cupl", (), "`prompts=cupl=FILE.json`"),
    "a name twice": ("photo,photo", (), "names 'photo' twice"),
    "two sets with templates": ("a,b", ("a {}.",), "those of one prompt set"),
    "a template without a place": ("a", ("{} and {}",), "exactly one {}"),
    "no such file": ("a=nowhere.json", (), "cannot be read"),
    "a name that is a path": ("../a=x.json", (), "not a usable name"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_prompt_set_is_refused_in_one_line(wrong: str) -> None:
    spec, templates, says = WRONG[wrong]
    assert says in refused(spec, *templates)


WRONG_SENTENCES = {
    "not JSON": ("{", "cannot be read"),
    "a list": ("[]", "are not {"),
    "a class is missing": ('{"apple pie": ["x"], "baklava": ["x"]}', "no sentences for class 'baby back ribs'"),
    "no sentence": ('{"apple pie": [], "baklava": ["x"], "baby back ribs": ["x"]}', "class 'apple pie' has no list"),
    "an empty one": (
        '{"apple pie": [" "], "baklava": ["x"], "baby back ribs": ["x"]}',
        "class 'apple pie' has no list",
    ),
    "a number": ('{"apple pie": [3], "baklava": ["x"], "baby back ribs": ["x"]}', "class 'apple pie' has no list"),
}


@pytest.mark.parametrize("wrong", WRONG_SENTENCES)
def test_wrong_sentences_are_refused_in_one_line(wrong: str, tmp_path: Path) -> None:
    text, says = WRONG_SENTENCES[wrong]
    (tmp_path / "s.json").write_text(text)
    assert says in refused(f"s={tmp_path / 's.json'}")


def test_names_and_files_are_looked_at_before_any_data_set_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.json").write_text('{"cat": ["a cat"]}')
    assert check_prompts("default, typo10,cupl=x.json", ()) == ["default", "typo10", "cupl=x.json"]
    (tmp_path / "x.json").write_text("[" * 100_000)
    for spec, why in (
        ("default,nope", "unknown prompt set"),
        ("cupl=x.json", "prompts x.json cannot be read .nested too deeply."),
        ("cupl=y.json", "prompts y.json cannot be read .No such file"),
        ("mine=y.txt", "nor a file"),
    ):
        with pytest.raises(UsageError, match=why):
            check_prompts(spec, ())


# Reduction


def test_the_mean_of_unit_texts_is_what_open_clip_makes() -> None:
    text = torch.randn(5, 7, 16, generator=torch.Generator().manual_seed(0))
    ours = torch.from_numpy(reduce_prompts(text.numpy()))
    torch.testing.assert_close(ours, unit(unit(text).mean(dim=1)))
    raw = torch.from_numpy(reduce_prompts(text.numpy(), "raw"))
    torch.testing.assert_close(raw, unit(text.mean(dim=1)))
    assert not torch.allclose(ours, raw, atol=1e-3)


def test_a_number_takes_that_template_alone_and_padding_does_not_count() -> None:
    text = np.random.default_rng(0).standard_normal((4, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(reduce_prompts(text, 2), text[:, 2] / np.linalg.norm(text[:, 2], axis=1, keepdims=True))
    np.testing.assert_array_equal(reduce_prompts(text, "1"), reduce_prompts(text, 1))
    padded = text.copy()
    padded[1, 1:] = np.nan
    for how in ("unit", "raw"):
        reduced = reduce_prompts(padded, how)
        np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(reduced[1], reduce_prompts(text, 0)[1], rtol=1e-5)
        np.testing.assert_array_equal(reduced[[0, 2, 3]], reduce_prompts(text, how)[[0, 2, 3]])
    for wrong in (3, "3"):
        with pytest.raises(UsageError, match="numbered 0 to 2"):
            reduce_prompts(text, wrong)
    with pytest.raises(UsageError, match="not there for every class"):
        reduce_prompts(padded, 1)
    with pytest.raises(UsageError, match="unknown reduction 'mean'"):
        reduce_prompts(text, "mean")


# Noise


@settings(max_examples=100, deadline=None)
@given(st.text("abcdefghij klmnop", min_size=1, max_size=30).map(lambda name: " ".join(name.split())).filter(bool))
def test_a_misspelt_name_is_always_the_same_and_keeps_its_length_within_the_edits(name: str) -> None:
    for share in (0.1, 0.2, 0.3):
        noisy = misspelt(name, share)
        edits = max(1, round(share * sum(sign.isalpha() for sign in name)))
        assert noisy == misspelt(name, share)
        assert noisy.strip() == noisy != ""
        assert abs(len(noisy) - len(name)) <= 2 * edits


def test_more_typos_leave_less_of_the_names() -> None:
    names = [
        f"{a} {b}" for a in ("golden", "english", "yorkshire") for b in ("retriever", "setter", "terrier", "spaniel")
    ]
    kept = [sum(sum(a == b for a, b in zip(n, misspelt(n, s), strict=False)) for n in names) for s in (0.1, 0.3, 0.6)]
    assert kept == sorted(kept, reverse=True)
    assert all(misspelt(name, 0.1) != name for name in names)
    assert misspelt("707-320", 0.3) == "707-320"


def test_shuffled_prompts_have_the_same_words_in_another_order() -> None:
    (prompts,) = read("shuffle")
    for (noisy,), (plain,) in zip(prompts.texts, read("default")[0].texts, strict=True):
        assert noisy != plain
        assert sorted(noisy.removesuffix(".").split()) == sorted(plain.removesuffix(".").split())
        assert noisy.endswith(".")
    assert shuffled("one") == "one"


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.sampled_from([0.1, 0.2, 0.5, 0.99]))
def test_wrong_names_are_a_share_of_the_classes_that_swap_among_themselves(classes: int, share: float) -> None:
    names = [f"class {c}" for c in range(classes)]
    wrong = misnamed(names, share)
    assert sorted(wrong) == sorted(names)
    assert sum(a != b for a, b in zip(wrong, names, strict=True)) == min(classes, max(2, round(share * classes)))


def test_noise_is_a_prompt_set_of_its_own_on_any_templates() -> None:
    ten, thirty, wrong, many = read("typo10,typo30,wrong50,ensemble-typo10")
    assert ten.texts != thirty.texts
    assert sorted(texts[0] for texts in wrong.texts) == sorted(texts[0] for texts in read("default")[0].texts)
    assert len(many.templates) == 80
    assert many.name == "ensemble-typo10"
    assert ten.templates != read("default")[0].templates  # a result under noise is told from one without
    noisy_name = misspelt(CLASSES[0], 0.1)
    assert many.texts[0][0] == f"a bad photo of a {noisy_name}."


def test_prompts_import_neither_torch_nor_open_clip_nor_pillow() -> None:
    heavy = ("torch", "open_clip", "PIL")
    code = f"import sys, mma.pipeline.embedding.prompts; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
