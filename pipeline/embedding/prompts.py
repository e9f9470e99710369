"""Prompt sets: for every class, the texts it is described by.

| set | texts of a class |
|---|---|
| `default` | the data set's own templates |
| `photo` | "a photo of a {}." |
| `simple`, `ensemble` | the 7 and the 80 ImageNet templates of CLIP's authors, as open_clip carries them |
| `NAME=FILE.txt` | templates, one per line |
| `NAME=FILE.json` | ready sentences, {"class name": ["...", ...]}, as CuPL publishes them; some classes may have more |
| `typo10`, `shuffle`, `wrong20` ... | `default` with noise, see prompt_noise.py; `photo-typo10` another set |

Several may be named at once, with commas between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mma.cache import check_name
from mma.pipeline.embedding.prompt_noise import add_noise, is_noise
from mma.pipeline.errors import UsageError, nearest
from mma.pipeline.options import written
from mma.pipeline.regular_files import expanded, parse_json, read_regular

DEFAULT = "default"
PHOTO = ("a photo of a {}.",)
BUILT_IN = (DEFAULT, "photo", "simple", "ensemble")
PUBLISHED = {"cupl": "github.com/sarahpratt/CuPL"}  # sentence sets people know by name, whose files are not carried


@dataclass(frozen=True)
class PromptSet:
    """A named list of texts for every class."""

    name: str
    templates: tuple[str, ...]  # [P] what each column is: a template, or the sentence's number and the file's digest
    texts: tuple[tuple[str, ...], ...]  # [C] up to P each

    def flat(self) -> list[str]:
        """Every text, the texts of one class together."""
        return [text for texts in self.texts for text in texts]

    def shaped(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings of `flat()` as [C, P, D]; a class with fewer texts has rows of NaN at its end."""
        whole = np.full((len(self.texts), len(self.templates), embedding.shape[-1]), np.nan, np.float32)
        start = 0
        for rows, texts in zip(whole, self.texts, strict=True):
            rows[: len(texts)] = embedding[start : start + len(texts)]
            start += len(texts)
        return whole


def read_prompts(
    spec: str, templates: Sequence[str], classnames: Sequence[str], own: Sequence[str]
) -> tuple[PromptSet, ...]:
    """The prompt sets that are asked for, for a data set with these class names and templates of its `own`.

    `spec` names them; `templates` (each a template, or a file with one on a line) are those of the one set it names.
    UsageError for a name that is not known, and for a file that does not fit the classes.
    """
    words = check_prompts(spec, templates)
    if templates:
        return (filled(words[0], read_templates(templates), classnames),)
    return tuple(_read_set(word, classnames, own) for word in words)


def check_prompts(spec: str, templates: Sequence[str]) -> list[str]:
    """The words of `spec`, looked at as far as can be without the data set. Raises as `read_prompts`."""
    words = [word.strip() for word in spec.split(",") if word.strip()]
    if not words:
        raise UsageError(f"no prompt set is named: {', '.join(BUILT_IN)}, or NAME=FILE")
    if templates and (len(words) > 1 or "=" in words[0]):
        raise UsageError(f"templates are those of one prompt set, and {written('prompts', spec)} names more or a file")
    names = [word.partition("=")[0] for word in words]
    for name, word in zip(names, words, strict=True):
        check_name("prompt set", name)
        if names.count(name) > 1:
            raise UsageError(f"{written('prompts', spec)} names {name!r} twice")
        if file := word.partition("=")[2]:
            _read_sentences(expanded(file)) if _is_sentences(file) else read_templates([file])
        if not templates and name == word:
            base, _, noise = name.rpartition("-")
            _refuse_unknown(base or DEFAULT if is_noise(noise) else name)
    for _, equals, file in (word.partition("=") for word in words):
        if equals:
            _read_sentences(expanded(file)) if _is_sentences(file) else read_templates([file])
    read_templates(templates)
    return words


def filled(name: str, templates: Sequence[str], classnames: Sequence[str]) -> PromptSet:
    """A prompt set of templates."""
    texts = tuple(tuple(template.replace("{}", called) for template in templates) for called in classnames)
    return PromptSet(name, tuple(templates), texts)


def read_templates(given: Sequence[str]) -> tuple[str, ...]:
    """Templates as they were given: each a template, or a file with one on a line. Raises UsageError."""
    found: list[str] = []
    for value in given:
        if "{}" in value:
            found.append(value)
        else:
            found += _file_templates(expanded(value))
    for template in found:
        if template.count("{}") != 1:
            raise UsageError(f"template {template!r} needs exactly one {{}} for the class name")
    return tuple(found)


def _read_set(word: str, classnames: Sequence[str], own: Sequence[str]) -> PromptSet:
    name, equals, file = word.partition("=")
    if equals:
        path = expanded(file)
        if _is_sentences(file):
            return _sentences(name, path, classnames)
        return filled(name, read_templates([file]), classnames)
    base, _, noise = name.rpartition("-")
    if is_noise(noise):
        templates = _built_in(base or DEFAULT, own)
        return PromptSet(name, *add_noise(noise, templates, classnames))
    return filled(name, _built_in(name, own), classnames)


def _built_in(name: str, own: Sequence[str]) -> tuple[str, ...]:
    if name == DEFAULT:
        return tuple(own)
    if name == "photo":
        return PHOTO
    import open_clip

    known = {"simple": open_clip.SIMPLE_IMAGENET_TEMPLATES, "ensemble": open_clip.OPENAI_IMAGENET_TEMPLATES}
    return tuple(template("{}") for template in known[name])


def _refuse_unknown(name: str) -> None:
    if name in BUILT_IN:
        return
    if name in PUBLISHED:
        raise UsageError(f"prompt set {name!r} is a file of sentences ({PUBLISHED[name]}): `prompts={name}=FILE.json`")
    raise UsageError(
        f"unknown prompt set {name!r}: {nearest(name, [*BUILT_IN, 'typo10', 'shuffle', 'wrong20'])}, "
        f"NAME=FILE.json of sentences, NAME=FILE.txt of templates, or `templates=TEXT` of your own"
    )


def _sentences(name: str, path: Path, classnames: Sequence[str]) -> PromptSet:
    """A prompt set of ready sentences; classes are matched without regard to case and "_"."""
    given, digest = _read_sentences(path)
    known = {_plain(key): value for key, value in given.items()}
    texts = tuple(_of_class(path, called, known) for called in classnames)
    most = max(map(len, texts))
    return PromptSet(name, tuple(f"sentence {number} of {path.name}, {digest}" for number in range(most)), texts)


def _is_sentences(file: str) -> bool:
    return file.lower().endswith(".json")


def _read_sentences(path: Path) -> tuple[dict[str, object], str]:
    """The sentences in a file, by class as it writes them, and the file's digest. UsageError where it is not one."""
    try:
        data = read_regular(path)
        given = parse_json(data.decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"prompts {path} cannot be read ({reason})") from error
    if not isinstance(given, dict):
        raise UsageError(f'prompts {path} are not {{"class name": ["sentence", ...]}}')
    return given, hashlib.sha256(data).hexdigest()[:16]


def _of_class(path: Path, called: str, known: Mapping[str, object]) -> tuple[str, ...]:
    sentences = known.get(_plain(called))
    if sentences is None:
        raise UsageError(f"prompts {path} have no sentences for class {called!r}: {nearest(called, list(known)[:40])}")
    if isinstance(sentences, str):
        sentences = [sentences]
    if not isinstance(sentences, list) or not sentences or not all(isinstance(s, str) and s.strip() for s in sentences):
        raise UsageError(f"prompts {path}: class {called!r} has no list of sentences")
    return tuple(" ".join(sentence.replace("{}", called).split()) for sentence in sentences)


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()


def _file_templates(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"templates {str(path)!r} is neither a template (it has no {{}}) nor a file")
    try:
        lines = [line.strip() for line in read_regular(path).decode("utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"templates file {path} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"templates file {path} is not UTF-8 text") from error
    if not lines:
        raise UsageError(f"templates file {path} is empty")
    return lines
