"""`mma demo`: the whole job on what the package carries, in about a minute, with no download."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mma.pipeline.embedding.embed import EmbedSettings, embed
from mma.pipeline.errors import UsageError
from mma.pipeline.fitting.fit import fit
from mma.pipeline.fitting.settings import FitSettings
from mma.pipeline.reports.tables import show_fitted

ADAPTERS = ("zero-shot", "linear-probe", "clip-adapter", "mma")


def demo(out: Path, stdout: Console, stderr: Console) -> None:
    """Embed `shapes` with `tiny`, fit zero-shot and three adapters base-to-new, print the table and what is next."""
    if out.is_file():
        raise UsageError(f"--out {out} is a file: give a folder")
    cache = out / "shapes.zarr"
    embed(EmbedSettings(dataset="shapes", model="tiny", cache=str(cache)), stderr)
    runs = out / "runs"
    show_fitted(stdout, fit(FitSettings(cache=(str(cache),), adapter=ADAPTERS, out=runs), stderr))
    stdout.print(
        f"\nThe cache is {cache}; weights, predictions and metrics of every seed are in {runs}.\n"
        "The images are drawn and the model is tiny: these numbers say nothing about the methods. Next:\n\n"
        f"  mma fit --cache {cache} --adapter mma --lam 0.5 --mask pair   another adapter on the same cache\n"
        "  mma embed --dataset path/to/images                             your own images, with ViT-B-16\n"
        "  mma fit --cache cache/images.zarr\n",
    )
