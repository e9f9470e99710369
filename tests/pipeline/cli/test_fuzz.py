"""A sample of the lines of fuzz.py; all of them by hand."""

from __future__ import annotations

import random

from .fuzz import BASE, VALUES, lines, run_lines, short

SAMPLE = 60


def test_lines_that_nobody_means_are_told_so() -> None:
    every = list(lines())
    assert {line[:2] if line[:2] in BASE else line[:1] for line in every} == set(BASE)
    assert len(every) > 100 * len(VALUES)
    found = [(line, what) for line, what in run_lines(random.Random(1).sample(every, SAMPLE)) if what]
    assert not found, "\n".join(f"{short(line)}: {what}" for line, what in found)
