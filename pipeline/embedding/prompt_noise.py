"""Noise in prompts, as prompt sets: what a classifier is worth whose class names are misspelt, scrambled or wrong.

- `typo10`, `typo20`, ... : that share, in %, of the letters of every class name is edited: dropped, doubled, or
  replaced by its neighbour on a keyboard. The edits of `typo10` are the first of `typo20`'s.
- `shuffle`: the words of every prompt in another order.
- `wrong10`, `wrong20`, ... : that share, in %, of the classes bears the name of another of them. `wrong` is `wrong20`.

All is drawn by a fixed seed and the text itself: a name is misspelt alike in every data set and any order of classes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

SEED = 0
WRONG_SHARE = 20  # percent, of `wrong` without a number
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # neighbours on a keyboard
_NOISE = re.compile(r"(typo)([1-9]\d?)|(wrong)([1-9]\d?)?|(shuffle)")

Texts = tuple[tuple[str, ...], ...]  # [C][P]


def is_noise(name: str) -> bool:
    """Whether a word names a noise."""
    return _NOISE.fullmatch(name) is not None


def add_noise(noise: str, templates: Sequence[str], classnames: Sequence[str]) -> tuple[tuple[str, ...], Texts]:
    """What each template is now called, and the noisy texts of every class."""
    labels = tuple(f"{template} ({noise}, seed {SEED})" for template in templates)
    found = _NOISE.fullmatch(noise)
    if found is None:
        raise ValueError(f"{noise!r} is no noise")
    typo, edited, wrong, renamed, _ = found.groups()
    if typo:
        names = [misspelt(name, int(edited) / 100) for name in classnames]
    elif wrong:
        names = misnamed(classnames, int(renamed or WRONG_SHARE) / 100)
    else:
        return labels, tuple(tuple(shuffled(t.replace("{}", name)) for t in templates) for name in classnames)
    return labels, tuple(tuple(template.replace("{}", name) for template in templates) for name in names)


def misspelt(name: str, share: float) -> str:
    """The name with a share of its letters edited, at least one; a name without letters stays."""
    rng = _rng("typo", name)
    letters = [at for at, sign in enumerate(name) if sign.isalpha()]
    order = [letters[i] for i in rng.permutation(len(letters))]
    edits = {at: _edit(name, at, rng) for at in order}
    count = max(1, round(share * len(letters)))
    chosen = set(order[:count])
    noisy = "".join(edits[at] if at in chosen else sign for at, sign in enumerate(name))
    return " ".join(noisy.split()) or name


def shuffled(text: str) -> str:
    """The words of a text in another order; the full stop stays at its end."""
    words = text.removesuffix(".").split()
    mixed = [words[i] for i in _rng("shuffle", text).permutation(len(words))]
    if mixed == words:  # another order, where there is one
        mixed = mixed[1:] + mixed[:1]
    return " ".join(mixed) + text[len(text.removesuffix(".")) :]


def misnamed(classnames: Sequence[str], share: float) -> list[str]:
    """Class names, a share of which (at least two) change places, so that none of these classes keeps its own."""
    rng = _rng("wrong", "\n".join(classnames))
    count = min(len(classnames), max(2, round(share * len(classnames))))
    chosen = rng.permutation(len(classnames))[:count]
    names = list(classnames)
    for to, source in zip(chosen, np.roll(chosen, 1), strict=True):
        names[to] = classnames[source]
    return names


def _edit(name: str, at: int, rng: Generator) -> str:
    """What stands in the place of one letter."""
    kind, pick = rng.integers(3), rng.integers(2)
    letter = name[at]
    if kind == 0 and len(name) > 1:
        return ""
    if kind == 1:
        return letter * 2
    row = next((row for row in KEYS if letter.lower() in row), KEYS[0])
    place = row.find(letter.lower()) + (1 if pick else -1)
    other = row[place % len(row)]
    return other.upper() if letter.isupper() else other


def _rng(kind: str, text: str) -> Generator:
    digest = hashlib.sha256(f"{SEED} {kind} {text}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))
