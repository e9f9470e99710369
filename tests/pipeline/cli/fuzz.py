"""Every option of every command, taken from the typer app, against values that nobody means.

    python tests/pipeline/cli/fuzz.py --all           # all lines; --command embed for those of one command
    python tests/pipeline/cli/fuzz.py --all --part 1/3    # the first of three processes that share them
    python tests/pipeline/cli/fuzz.py --sample 200

Not as root, who may write to every place that a line names: `setpriv --reuid=65534 --regid=65534 --clear-groups`, with
HOME a folder that is writable.

A line passes if it takes less than ten seconds of the processor and a gigabyte, ends within a minute whatever else the
machine does, and says what is wrong in its own words: no traceback, no "a defect", exit code 0, 1 or 2, and a line on
stderr where it is not 0. Lines come in random order, so that a run that is stopped was a sample. test_fuzz.py runs one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import typer
from PIL import Image

from mma.adapters import adapter_class, options_of
from mma.cache import import_npz
from mma.pipeline.cli.main import app, main
from mma.pipeline.fitting.settings import FACTORS

SECONDS = 10  # of the processor, all threads of a line
PATIENCE = 60  # seconds of the clock
MEMORY = 10**9  # bytes that one line may add
SKIPPED = {"help", "version", "install_completion", "show_completion"}
ADAPTERS = ("mma", "tip-adapter", "lp++", "kron-ridge", "tda")  # whose options are tried: every kind of value

Line = tuple[str, ...]

Options = dict[str, str | None]  # by name; None: a flag

BASE: dict[Line, tuple[Line, Options]] = {  # arguments and options with which a command works
    ("demo",): ((), {}),
    ("datasets",): ((), {}),
    ("datasets", "check"): (("photos",), {}),
    ("embed",): ((), {"dataset": "photos", "model": "tiny", "cache": "made.zarr", "workers": "1"}),
    ("fit",): ((), {"cache": "c.zarr", "adapter": "gda", "shots": "1", "seeds": "1"}),
    ("ablate",): (("adapter=gda", "shots=1", "seed=0"), {"cache": "c.zarr"}),
    ("adapters", "show"): (("mma",), {}),
    ("adapters", "check"): (("zero-shot",), {}),
    ("search",): (("c.zarr", "cat"), {}),
    ("cache", "info"): (("c.zarr",), {}),
    ("cache", "verify"): (("c.zarr",), {}),
    ("cache", "merge"): (("c.zarr",), {}),
    ("cache", "repair"): (("c.zarr",), {}),
    ("cache", "diff"): (("c.zarr", "c.zarr"), {}),
    ("cache", "export"): (("c.zarr",), {"out": "c.npz"}),
    ("cache", "import"): ((), {"npz": "small.npz", "out": "again.zarr"}),
    ("audit",): (("c.zarr",), {}),
    ("export",): ((), {"cache": "c.zarr", "adapter": "gda", "out": "other-model", "force": None}),
    ("predict",): (("model", "photos"), {"workers": "1"}),
    ("explain",): ((), {"run": "run", "image": "test/0"}),
    ("report",): (("runs",), {}),
    ("reproduce",): (("suite.toml",), {"caches": "caches"}),
}

READY: tuple[tuple[Line, Options], ...] = (  # before the first line: what others need, and imports that take seconds
    ((("fit",)), BASE[("fit",)][1]),
    ((("embed",)), BASE[("embed",)][1]),
    ((("export",)), {"cache": "made.zarr", "adapter": "zero-shot", "out": "model"}),
    ((("reproduce", "suite.toml")), {"caches": "caches"}),
)

SUITE = """
title = "of photographs"
source = "nobody"
embed = { model = "tiny" }
[[tables]]
title = "one"
datasets = ["photos"]
fit = { protocol = "few-shot", shots = 1, seeds = 1, val = "none" }
[[tables.methods]]
name = "GDA"
fit = { adapter = "gda" }
"""

VALUES = {
    "empty": "",
    "space": " ",
    "forty digits": "9" * 40,
    "minus forty digits": "-" + "9" * 40,
    "5000 digits": "1" * 5000,
    "minus one": "-1",
    "zero": "0",
    "half": "0.5",
    "tiny number": "1e-400",
    "huge number": "1e400",
    "largest float": "1e308",
    "nan": "nan",
    "inf": "inf",
    "minus inf": "-inf",
    "hexadecimal": "0x10",
    "none": "none",
    "true": "true",
    "comma": ",",
    "colon": ":",
    "equals": "=",
    "range": "0:9999999999",
    "range of halves": "0:1:1e-40",
    "empty range": "1:1",
    "many commas": "1," * 5000,
    "markup": "[/b]",
    "more markup": "[bold]x",
    "braces": "{} {}",
    "percent": "1e400%",
    "odd byte": "\udcff",
    "newline": "a\nb",
    "escape": "\x1b[31mx",
    "long name": "x" * 5000,
    "unknown user": "~nosuchuser/x",
    "above": "../nowhere/x",
    "here": ".",
    "folder": "photos",
    "empty file": "empty",
    "noise": "noise.npz",
    "deep json": "deep.json",
    "deep toml": "deep.toml",
    "big toml": "big.toml",
    "odd json": "odd.json",
    "fifo": "fifo",
    "fifo json": "fifo.json",
    "loop": "loop",
    "full": "full",
    "zeros": "zeros",
    "s3": "s3://bucket/x.zarr",
    "gopher": "gopher://host/x.zarr",
    "http": "http://127.0.0.1:1/x.zarr",
    "data url": "data:,x",
    "chained url": "zip://x::file://empty",
    "no scheme": "://x",
    "named fifo": "cupl=fifo.json",
    "named deep": "cupl=deep.json",
    "file and class": "empty:X",
}


NO_FOLDER = ("empty", "long name", "empty file", "fifo", "loop", "full", "zeros")  # the demo works, for long, in others


def make_place(folder: Path) -> None:
    """What the lines work on: a cache, images, and files that are not what they should be."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {"text": rng.standard_normal((5, 16)).astype(np.float32), "classnames": list("abcde")}
    for split in ("train", "val", "test"):
        arrays[f"image_{split}"] = rng.standard_normal((20, 16)).astype(np.float16)
        arrays[f"label_{split}"] = np.repeat(np.arange(5), 4).astype(np.int32)
    np.savez(folder / "small.npz", **arrays)
    import_npz(folder / "small.npz", folder / "c.zarr", logit_scale=20.0)
    for name in ("cat", "dog"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{number}.png")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "empty").touch()
    (folder / "noise.npz").write_bytes(rng.bytes(4000))
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "deep.toml").write_text("lam = " + "[" * 100_000)
    (folder / "big.toml").write_text(f"lam = {'9' * 5000}\nshots = [nan, inf, -inf, 1e400]\n")
    (folder / "odd.json").write_text('{"cat": [1e400, null, {}], "dog": NaN}')
    os.mkfifo(folder / "fifo")
    os.mkfifo(folder / "fifo.json")
    (folder / "loop").symlink_to(folder / "loop")
    for name, device in (
        ("full", "full"),
        ("zeros", "zero"),
    ):  # a link is lost where one writes in its place, no device
        (folder / name).symlink_to(f"/dev/{device}")


def lines() -> Iterator[Line]:
    """Every option and argument of every command, with every value; flags alone."""
    for words, command in _commands(typer.main.get_command(app), ()):
        arguments, options = BASE[words]
        for param in command.params:
            if param.name in SKIPPED:
                continue
            if param.param_type_name == "argument":
                at = [p.name for p in command.params if p.param_type_name == "argument"].index(param.name)
                for value in VALUES.values():
                    yield _line(words, (*arguments[:at], value, *arguments[at + 1 :]), options)
                continue
            name = param.opts[0].removeprefix("--")
            if getattr(param, "is_flag", False):
                yield _line(words, arguments, {**options, name: None})
                continue
            for called, value in VALUES.items():
                downloads = name == "model" and called == "none"  # that is the default
                if not downloads and (words != ("demo",) or called in NO_FOLDER):
                    yield _line(words, arguments, {**options, name: value})
    named = {name: adapter for adapter in ADAPTERS for name in (o.name for o in options_of(adapter_class(adapter)))}
    for name in (*named, *FACTORS, "seed", "nothing"):
        adapter = named.get(name, "gda")
        for value in VALUES.values():
            yield _line(
                ("ablate",), (f"adapter={adapter}", "shots=1", "seed=0", f"{name}={value}"), {"cache": "c.zarr"}
            )
            if name not in FACTORS:
                for command in ("fit", "export"):
                    given = {**BASE[(command,)][1], "adapter": adapter, name.replace("_", "-"): value}
                    yield _line((command,), (), given)


def _commands(command: Any, words: Line) -> Iterator[tuple[Line, Any]]:
    """All of them: one that BASE lacks is a KeyError."""
    subs = getattr(command, "commands", {})
    if words in BASE or not subs:
        yield words, command
    for name, sub in subs.items():
        yield from _commands(sub, (*words, name))


def _line(words: Line, arguments: Sequence[str], options: Options) -> Line:
    given = [[f"--{name}", *([] if value is None else [value])] for name, value in options.items()]
    return (*words, *arguments, *itertools.chain.from_iterable(given))


class Hang(BaseException):
    """A line has not ended in time."""


def _too_long(*_: object) -> None:
    raise Hang


def _peak_from_now() -> int:
    """Kilobytes in use; on Linux the peak is counted from here, else a line could add as much as another had."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def trouble(line: Line, seconds: int = PATIENCE) -> str | None:
    """Run a line in this process, in the current folder; what is wrong with how it ended, or None."""
    said, printed = io.StringIO(), io.StringIO()
    before, start, used = _peak_from_now(), time.monotonic(), time.process_time()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(seconds)
    code: object = 0
    try:
        with (
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(said),
            patch.object(sys, "argv", ["mma", *line]),
        ):
            main()
    except SystemExit as error:
        code = error.code
    except Hang:
        return f"no end in {seconds} s"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    last = said.getvalue()
    if grown > MEMORY:
        return f"{grown / 1e9:.1f} GB more memory"
    if time.monotonic() - start > seconds:
        return f"no end in {seconds} s"
    if time.process_time() - used > SECONDS:
        return f"{time.process_time() - used:.0f} s of the processor"
    if "a defect" in last or "Traceback" in last:
        return last.strip().splitlines()[-1]
    if code not in (0, 1, 2, None):
        return f"exit code {code}"
    if code and code != 0 and "mma: " not in last and not printed.getvalue():
        return f"exit code {code} and no word"
    return None


def run_lines(chosen: Sequence[Line]) -> Iterator[tuple[Line, str | None]]:
    """Run lines in a folder made for them; each with what is wrong with it, or None."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        make_place(Path(folder))
        os.chdir(folder)
        try:
            for words, options in READY:
                what = trouble(_line(words, (), options), seconds=120)
                assert what is None, what
            Path("run").symlink_to(next(Path("runs").glob("gda-*")))
            for line in chosen:
                yield line, trouble(line)
        finally:
            os.chdir(here)


def short(line: Line) -> str:
    """A line as a person reads it."""
    return " ".join(repr(word) if len(word) < 60 else f"{word[:20]!r}...({len(word)})" for word in line)


def run() -> None:
    """By hand."""
    parser = argparse.ArgumentParser(description="Fuzz the command line.")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--sample", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", help="lines of this command alone")
    parser.add_argument("--part", default="1/1", help="the i-th of n shares, i/n")
    given = parser.parse_args()
    if os.geteuid() == 0:
        parser.error("not as root, who may write to every place that a line names: see the head of this file")
    chosen = [line for line in lines() if given.command in (None, line[0])]
    count = len(chosen) if given.all else min(given.sample, len(chosen))
    chosen = random.Random(given.seed).sample(chosen, count)
    i, n = map(int, given.part.split("/"))
    chosen, start, found = chosen[i - 1 :: n], time.monotonic(), 0
    for done, (line, what) in enumerate(run_lines(chosen), start=1):
        if what:
            found += 1
            print(f"{short(line)}\n    {what}")
        if done % 100 == 0 or done == len(chosen):
            print(f"{done:,} lines in {time.monotonic() - start:.0f} s, {found} in trouble", flush=True)
    sys.exit(bool(found))


if __name__ == "__main__":
    run()
