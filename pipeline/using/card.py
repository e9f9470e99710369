"""The model card: README.md of a model folder, from what model.json says."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mma.pipeline.reports.calibration import quantile_of, rows_needed
from mma.pipeline.using.model import About, Calibration, Shots
from mma.pipeline.using.replaced import changes_in_words

COVERAGES = (0.8, 0.9, 0.95, 0.99)
SHOWN = 20  # class names


def model_card(about: About, scores: Mapping[str, NDArray[np.float64]], shots: Shots | None = None) -> str:
    """Markdown."""
    new = [_replaced(about)] if "replaces" in about.fitted else []
    parts = [_head(about), _fitted(about, shots), *new, _numbers(about, scores), _unsaid(about), _use(about)]
    return "\n\n".join(parts) + "\n"


def _head(about: About) -> str:
    encoder = about.encoder
    made = (
        f"{encoder['model']}, {encoder.get('pretrained') or 'its own weights'} (SHA-256 {encoder['weights_sha256']})"
        if encoder
        else "not known: the embeddings were imported"
    )
    names = ", ".join(map(_plain, about.classnames[:SHOWN]))
    more = f" and {len(about.classnames) - SHOWN} more" if len(about.classnames) > SHOWN else ""
    options = ", ".join(f"{name} {value}" for name, value in about.options.items()) or "none"
    return "\n".join(
        [
            f"# {about.adapter} on {_plain(str(about.fitted['dataset']))}",
            "",
            f"- adapter: {about.adapter}; options: {options}",
            f"- encoder: {made}",
            f"- {len(about.classnames)} classes: {names}{more}",
            f"- texts: prompt set {about.prompts}, of {len(about.templates)} texts per class",
            f"- written by mma {about.mma}",
        ]
    )


def _fitted(about: About, shots: Shots | None) -> str:
    fitted = about.fitted
    rows = ", ".join(f"{count:,} {split}" for split, count in fitted["rows"].items()) or "no"
    lines = ["## What it was fitted on", "", f"{rows} images (embeddings {fitted['digest']}), seed {fitted['seed']}."]
    if fitted["chosen"]:
        lines.append("Chosen: " + ", ".join(f"{name} {value:g}" for name, value in fitted["chosen"].items()) + ".")
    if auto := fitted.get("auto"):
        change = auto["points_over_second"]
        lines.append(
            f"The adapter was chosen of {len(auto['accuracies'])} on {auto['images']:,} validation images: "
            f"{change['mean']:+.1f} points over {auto['second']} (95 % interval {change['low']:.1f} to "
            f"{change['high']:.1f})."
        )
    if fitted["best_epoch"]:
        lines.append(f"Epochs: {fitted['best_epoch']}, selection: {fitted['select']}.")
    if shots:
        lines.append(
            f"The folder holds the embeddings (float16) and paths of {len(shots.paths):,} of them, for `mma predict "
            "--why`; `mma export --without-shots` leaves them out."
        )
    return "\n".join(lines)


def _replaced(about: About) -> str:
    """What is other than in the model whose place this one took."""
    changes = about.fitted["replaces"]
    said = [f"- {_plain(part)}" for part in changes_in_words(changes)]
    was = f"It took the place of a model whose weights have the SHA-256 {changes['weights_sha256']}:"
    return "\n".join(["## What is new", "", was, "", *said])


def _numbers(about: About, scores: Mapping[str, NDArray[np.float64]]) -> str:
    found, calibration = about.validation, about.calibration
    if not found or calibration is None:
        return "## Numbers\n\nNone: no labelled image was left to measure with. What it says are scores."
    temperature = (
        f"{calibration.temperature:.3f}, of {calibration.rows:,} images (negative log-likelihood "
        f"{calibration.loss_before:.3f} before, {calibration.loss_after:.3f} after)"
        if calibration.temperature
        else "not determined by these images: what it says are scores, not probabilities"
    )
    lines = [
        "## Numbers",
        "",
        f"On {found['rows']:,} labelled images that trained nothing:",
        "",
        "| figure | value |",
        "|---|---|",
        f"| accuracy | {found['accuracy']:.2f} % |",
        f"| balanced accuracy | {found['balanced_accuracy']:.2f} % |",
        f"| calibration error, before and after | {found['calibration_error_before']:.2f} %, "
        f"{found['calibration_error']:.2f} % |",
        f"| temperature | {temperature} |",
        "",
        f"Conformal thresholds, of {calibration.conformal_rows:,} other images:",
        "",
        "| coverage | LAC | APS |",
        "|---|---|---|",
    ]
    return "\n".join(lines + [_thresholds(coverage, scores, calibration) for coverage in COVERAGES])


def _thresholds(coverage: float, scores: Mapping[str, NDArray[np.float64]], calibration: Calibration) -> str:
    found = [quantile_of(scores[method], coverage) for method in ("lac", "aps")]
    if math.isinf(found[0]):
        return f"| {coverage:g} | needs {rows_needed(coverage)} images | needs {rows_needed(coverage)} images |"
    return f"| {coverage:g} | {found[0]:.4f} | {found[1]:.4f} |"


def _unsaid(about: About) -> str:
    lines = [
        "## What the numbers do not say",
        "",
        "- They hold for images that come as these came. Of other cameras, places or times they say nothing.",
        "- An image of none of the classes is called one of them all the same.",
    ]
    if about.fitted["select"] == "oracle":
        lines.append("- ORACLE: epochs were chosen on the test images; what fit says of this run is an upper bound.")
    if about.calibration and about.calibration.selected_on:
        lines.append("- Epochs or options were chosen on the same images, so the numbers look a little too good.")
    if about.fitted["refitted"]:
        lines.append("- They are those of the fit that made the choices. The model is a second fit, on more images.")
    return "\n".join(lines)


def _use(about: About) -> str:
    onnx = (
        [
            "",
            f"`model.onnx` takes {' and '.join(about.onnx['inputs'])} and gives logits, at most "
            f"{about.onnx['difference']:.1g} from torch's.",
        ]
        if about.onnx
        else []
    )
    return "\n".join(
        [
            "## Use",
            "",
            "    mma predict FOLDER IMAGES...",
            "",
            "or in Python:",
            "",
            '    model = mma.load_model("FOLDER")',
            '    model.predict(["new.jpg"])',
            *onnx,
        ]
    )


def _plain(name: str) -> str:
    """A name that is no Markdown."""
    return "".join(f"\\{sign}" if sign in r"\`*_[]<>#|" else sign for sign in name)
