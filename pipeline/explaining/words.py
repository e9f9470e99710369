"""What is there to say of an explanation, in words? A headline, a paragraph per image, and the classes that trade."""

from __future__ import annotations

import math
from collections import Counter

import torch
from rich.console import Console
from torch import Tensor

from mma.adapters.mma import MultiModalAdapter
from mma.adapters.rada import RAda
from mma.pipeline.console import Column, show_table
from mma.pipeline.explaining.attention import Attention
from mma.pipeline.explaining.channels import Masked
from mma.pipeline.explaining.explain import Explanation, Shown
from mma.pipeline.explaining.looks import Look

FIRST = 3  # classes, heads' favourites or shots that are named
PAIRS = 10  # of classes that trade images
CHANNELS = 5  # that decide
EVEN = 1.05  # of an even share: a look whose largest share is below this is called even
MASKS = {
    "cross": "each prompt looks at the image alone (its gate is 1), the image at all prompts",
    "pair": "each prompt and the image look at each other alone, prompt by prompt",
    "bias": "everyone looks at everyone, text-image pairs with +1 on their score",
    "none": "everyone looks at everyone",
    "within": "prompts look at prompts (the image's gate is 0), the image at itself",
}


def show_explanation(console: Console, explanation: Explanation) -> None:
    """Headline, images, trades."""
    console.print(headline(explanation))
    for shown in explanation.shown:
        console.print()
        console.print(paragraph(explanation, shown))
    if not explanation.trades:
        return
    names = explanation.classnames
    console.print()
    columns = [Column("zero-shot says"), Column("the adapter says")]
    columns += [Column(name, right=True) for name in ("images", "mended", "broken")]
    rows = [
        [names[t.before], names[t.after], str(t.images), str(t.mended), str(t.broken)]
        for t in explanation.trades[:PAIRS]
    ]
    some = f", the first {PAIRS} of {len(explanation.trades)}" if len(explanation.trades) > PAIRS else ""
    show_table(console, columns, rows, f"Pairs of classes between which test images moved{some}")


def headline(explanation: Explanation) -> str:
    """How many answers the adapter changed, and how it works."""
    trades, fit = explanation.trades, explanation.fit
    moved, mended, broken = (sum(getattr(t, name) for t in trades) for name in ("images", "mended", "broken"))
    rows = sum(len(answered.rows) for answered in explanation.answers)
    said = (
        f"{fit.setting.name} on {fit.features.images.dataset}, seed {fit.seed}: of {rows:,} test images it calls "
        f"{moved:,} another class than zero-shot does: {mended:,} mended, {broken:,} broken, "
        f"{moved - mended - broken:,} wrong before and after."
    )
    if isinstance(fit.adapter, MultiModalAdapter):
        lam_image, lam_text = fit.adapter.shares()
        said += (
            f" Mask {fit.adapter.mask}: {MASKS[fit.adapter.mask]}. Blend weights: image {lam_image:g}, "
            f"prompts {lam_text:g}."
        )
    lost = [answered.test for answered in explanation.answers if not answered.known]
    if lost:
        said += f" It has no weights for the {' and '.join(lost)} classes: their images are scored zero-shot."
    return said


def paragraph(explanation: Explanation, shown: Shown) -> str:
    """What was done with one image."""
    parts = [verdict(explanation, shown.look)]
    if shown.attention:
        parts.append(attention_text(explanation, shown.look, shown.attention))
    elif shown.masked:
        parts.append(mask_text(explanation, shown.look, shown.masked))
    elif shown.said is not None:
        parts.append(shots_text(explanation, shown.look, shown.said))
    elif not shown.look.of.known:
        parts.append("The adapter has no weights for this class: its answer is zero-shot's.")
    return " ".join(parts)


def verdict(explanation: Explanation, look: Look) -> str:
    """What zero-shot and the adapter call an image, and how sure they are."""
    names, of = explanation.classnames, look.of
    label = int(of.label[look.at])
    said = []
    for logits in (of.zero_shot[look.at], of.adapted[look.at]):
        probability = logits.softmax(-1)
        best = int(probability.argmax())
        said.append((int(of.classes[best]), float(probability[best])))
    (before, sure), (after, surer) = said
    right = {(True, True): "right both times", (False, True): "mended", (True, False): "broken"}
    outcome = right.get((before == label, after == label), "wrong both times")
    return (
        f"Row {look.row} ({look.path}), {names[label]}: zero-shot says {names[before]} ({sure:.0%}), "
        f"{explanation.fit.setting.name} {names[after]} ({surer:.0%}): {outcome}."
    )


def attention_text(explanation: Explanation, look: Look, attention: Attention) -> str:
    """Who looked at whom, and what moved."""
    adapter = explanation.fit.adapter
    assert isinstance(adapter, MultiModalAdapter)
    parts = []
    if adapter.mask not in ("pair", "within"):
        looked, shares = [], attention.to_prompts / attention.to_prompts.sum(-1, keepdim=True)
        for head, share in enumerate(shares, 1):
            top, even = int(share.argmax()), float(share.max()) < EVEN / len(share)
            most = f"most at {_name(explanation, look, top)} ({float(share[top]):.0%})"
            looked.append(f"head {head} {'evenly' if even else most}")
        parts.append(f"At the prompts the image looks {', '.join(looked)}; evenly is {1 / len(look.of.text):.1%} each.")
    if adapter.mask in ("bias", "none"):
        gate = attention.gate
        parts.append(
            f"The image enters the prompts by a gate of {float(gate.mean()):.1%} on average "
            f"({float(gate.min()):.1%} to {float(gate.max()):.1%} over heads and prompts), "
            f"and gets {float(attention.to_itself.mean()):.1%} of its own look."
        )
    parts += moves(explanation, look, attention)
    return " ".join(parts)


def moves(explanation: Explanation, look: Look, attention: Attention) -> list[str]:
    """How far the image and the prompts moved, and toward which classes."""
    text, parts = look.of.text, []
    turned = degrees(attention.image, look.image)  # [1 or C]
    if float(turned.max()) < 0.01:
        parts.append("The image stays where it was.")
    else:
        nearer = ((attention.image - look.image) @ text.mT).mean(0)  # [C] change of cosine with each prompt
        to, away = int(nearer.argmax()), int(nearer.argmin())
        parts.append(
            f"The image turns by {_span(turned)}, most toward {_name(explanation, look, to)} "
            f"({float(nearer[to]):+.3f} of cosine) and least toward {_name(explanation, look, away)} "
            f"({float(nearer[away]):+.3f})."
        )
    turned = degrees(attention.text, text)  # [C]
    if float(turned.max()) < 0.01:
        return [*parts, "The prompts stay where they were."]
    toward = Counter(int(k) for k in toward_class(attention.text, text))
    most, count = toward.most_common(1)[0]
    return [
        *parts,
        f"The prompts turn by {_span(turned)}; of other classes they come nearest to "
        f"{_name(explanation, look, most)} ({count} of {len(text)} prompts).",
    ]


def degrees(after: Tensor, before: Tensor) -> Tensor:
    """Angles in degrees between unit embeddings [..., D]."""
    return torch.rad2deg(2 * torch.asin(((after - before).norm(dim=-1) / 2).clamp(max=1)))


def toward_class(after: Tensor, before: Tensor) -> Tensor:
    """For each prompt [C]: the other class whose cosine with it rose most, from unit prompts [C, D]."""
    change = (after - before) @ before.mT
    return change.fill_diagonal_(-math.inf).argmax(-1)


def mask_text(explanation: Explanation, look: Look, masked: Masked) -> str:
    """How the mask treats channels, and which of them decide between the answer and its rival."""
    adapter = explanation.fit.adapter
    assert isinstance(adapter, RAda)
    best, rival = rivals(look, masked)
    plain, under = masked.shares(best, rival)
    k, channels = masked.mask.shape
    order = under.abs().argsort(descending=True)
    first = ", ".join(f"{int(d)} ({float(under[d]):+.2f}, unmasked {float(plain[d]):+.2f})" for d in order[:CHANNELS])
    size = under[order].abs().cumsum(0)
    half = int((size >= size[-1] / 2).nonzero()[0]) + 1
    among = "all classes" if k == len(look.of.text) else f"its {k} nearest classes"
    name, other = (_name(explanation, look, int(masked.classes[i])) for i in (best, rival))
    shut = float((masked.mask == 0).float().mean())
    spread = masked.mask.var(correction=0)
    alike = float(masked.mask.mean(0).var(correction=0) / spread) if spread else 1.0
    return (
        f"Among {among} the mask is {float(masked.mask.mean()):.2f} on average ({float(masked.mask.min()):.2f} to "
        f"{float(masked.mask.max()):.2f}; 1 changes nothing), and shuts {shut:.1%} of it; "
        f"{alike:.0%} of its variance is between channels, the same for all classes. "
        f"In logits {name} is ahead of {other} by {float(under.sum()):+.2f}, unmasked {float(plain.sum()):+.2f}. "
        f"Channels that decide: {first}; {half} of {channels} make half of all that channels say for either."
    )


def rivals(look: Look, masked: Masked) -> tuple[int, int]:
    """Among the candidates: the class that the adapter says, and zero-shot's, or else the second best."""
    logits = look.of.adapted[look.at][masked.classes]
    first, second = logits.topk(2).indices.tolist()
    before = int(look.of.zero_shot[look.at][masked.classes].argmax())
    return first, before if before != first else second


def shots_text(explanation: Explanation, look: Look, said: Tensor) -> str:
    """The nearest shots with what they add, and what all shots add to the answer."""
    rows, label = explanation.shots(said)
    order, cosine = explanation.nearest_shots(look, said)
    of = look.of
    parts = []
    for i in order[:FIRST]:
        k = int(said[i].abs().argmax())
        parts.append(
            f"row {rows[i]} of train, {explanation.classnames[label[i]]} (cosine {float(cosine[i]):.2f}, "
            f"{float(said[i, k]):+.2f} to {_name(explanation, look, k)})"
        )
    best = int(of.adapted[look.at].argmax())
    before = int(of.zero_shot[look.at].argmax())
    total = said.sum(0)
    told = f"All {len(said):,} together add {float(total[best]):+.2f} to {_name(explanation, look, best)}"
    if before != best:
        told += f" and {float(total[before]):+.2f} to {_name(explanation, look, before)}"
    return f"The nearest shots, with what they add in logits: {'; '.join(parts)}. {told}."


def _span(turned: Tensor) -> str:
    low, high = float(turned.min()), float(turned.max())
    return f"{low:.1f}°" if high - low < 0.05 else f"{low:.1f}° to {high:.1f}°"


def _name(explanation: Explanation, look: Look, k: int) -> str:
    return explanation.classnames[int(look.of.classes[k])]
