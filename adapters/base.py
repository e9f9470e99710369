"""What an adapter is.

An adapter maps unit image embeddings [B, D] and unit text embeddings [C, D] to logits [B, C]. It has three moments:

    adapter = MultiModalAdapter(lam=0.2, mask="cross")   # hyper-parameters, and nothing but hyper-parameters
    fit(adapter, support, adapter.recipe, seed=0)         # weights, from the support and the seed
    logits = predict(adapter, image, text)                # any images, and (if `class_free`) any classes

A fit calls `start`, takes gradient steps if the adapter `trains` (a closed form has done its whole work in `start`),
and then chooses on validation rows the hyper-parameters that were left open, if the adapter has such (`tunes`).

The recipes of an adapter have names: `published` is its own authors', `clip-mma` that repository's reproduction,
`validated` ours, where there is none to take: it stops on validation loss. The first is the default.

Features before the projection: an adapter whose `reads` is "penultimate" is given, wherever others are given
embeddings, what the towers have before their last linear layer, as it is: images [B, W_image], and one vector [W_text]
of each class, whose projection points where the class's embedding does. `Support.projections` are the two layers.

A saved adapter is restored by `build` and the stored tensors, without a support. What an author does for that: `build`
makes every parameter and registers every buffer from `Shapes` alone, a buffer of a size that they do not tell as
torch's `nn.UninitializedBuffer()`; `start` computes what is in them.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

_DRAWING = threading.Lock()  # torch has one global generator, and fits may run in threads of one process


class AdapterError(ValueError):
    """An adapter was asked for something it cannot do. The message is one line: what, and how to mend it."""

    exit_code: ClassVar[int] = 2  # of a command that ends so: what was asked for is wrong, not the machine


@dataclass(frozen=True)
class Projection:
    """The last linear layer of a tower: features [..., W] -> embeddings [..., D], not of unit length."""

    weight: Tensor  # [W, D]
    bias: Tensor  # [D]; 0 where the layer has none

    def __call__(self, features: Tensor) -> Tensor:
        """Embeddings [..., D] of features [..., W]."""
        return features @ self.weight + self.bias


@dataclass(frozen=True)
class Projections:
    """Those of both towers, frozen."""

    image: Projection
    text: Projection


@dataclass(frozen=True)
class Support:
    """The few-shot training rows, and all else an adapter may look at before its first step."""

    image: Tensor  # [N, D] unit, float
    label: Tensor  # [N] int64, in 0..C-1
    text: Tensor  # [C, D] unit, float
    logit_scale: float  # exp(logit_scale) of the model, frozen; 100 for OpenAI's CLIP
    views: Tensor | None = None  # [N, V, D] unit, view 0 = `image`; for adapters whose `uses_views` is "train"
    new_classes: bool = False  # whether classes without shots will be scored too: what an adapter may choose for
    seed: int | None = None  # of what `build` draws; None: torch's global generator, as it stands
    projections: Projections | None = (
        None  # of an adapter that `reads` penultimate features, which has these for images
    )

    @property
    def dim(self) -> int:
        """D."""
        return (self.text if self.projections is None else self.projections.text.weight).shape[1]


@dataclass(frozen=True)
class Shapes:
    """What the sizes of an adapter's parameters and buffers follow from."""

    rows: int  # N of the support; 0 for an adapter that looks at no shots
    classes: int  # C
    dim: int  # D
    widths: tuple[int, int] | None = None  # W of images and of texts, of an adapter that reads penultimate features

    @classmethod
    def of(cls, support: Support) -> Shapes:
        """Those of an adapter that is fitted on `support`."""
        layers = support.projections
        widths = (len(layers.image.weight), len(layers.text.weight)) if layers else None
        return cls(len(support.image), len(support.text), support.dim, widths)


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained."""

    optimizer: str = "adam"  # "adam" (L2), "adamw" (decoupled) or "sgd" (momentum 0.9)
    lr: float = 5e-3
    weight_decay: float = 1e-4
    batch: int = 256  # images per step
    epochs: int = 200  # at most
    patience: int = 10  # epochs without a better validation result before stopping
    schedule: str = "constant"  # of the learning rate: "constant", or "cosine" down to zero over all epochs
    warmup: int = 0  # epochs at the start at a constant learning rate of 1e-5
    monitor: str = "accuracy"  # what validation selects by: "accuracy", or "loss" (cross-entropy)


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe, where it is from, and how its authors chose the epoch. Only the recipe itself decides a result."""

    recipe: Recipe
    source: str  # one line
    select: Literal["val", "last"] = "val"  # the epoch that is best on validation rows, or the last one


class DefaultRecipe:
    """The attribute `recipe` of an adapter class: the first of its `recipes`."""

    def __get__(self, adapter: Adapter | None, kind: type[Adapter]) -> Recipe:
        return next(iter(kind.recipes.values())).recipe


class Adapter(nn.Module):
    """Unit image [B, D] and unit text [C, D] -> logits [B, C].

    A subclass states its hyper-parameters as keyword-only arguments of `__init__`, with the published defaults and a
    line of help, `lam: Annotated[float, "weight, 0 to 1"] = 0.2`, and keeps each under its own name (`self.lam = lam`):
    the command line, the grid and the saved file are generated from that signature. The first sentence of its docstring
    says what it does. What it learns are parameters (by gradient steps) and buffers (all else).
    """

    source: ClassVar[str] = ""  # one line: the paper, its arXiv id, the code
    trains: ClassVar[bool] = True  # False: closed form, `start` is the whole fit
    class_free: ClassVar[bool] = True  # whether it scores classes that had no shots
    few_shot: ClassVar[bool] = True  # whether it looks at shots; False: `start` is given a support without rows
    seeded: ClassVar[bool] = True  # whether the seed decides anything: draws of shots, weights, or batches
    transductive: ClassVar[Literal["no", "stream", "batch"]] = "no"  # a row's logits depend on earlier rows / all rows
    uses_views: ClassVar[Literal["no", "train", "test"]] = "no"  # "train": Support.views; "test": image is [B, V, D]
    reads: ClassVar[Literal["final", "penultimate"]] = "final"  # "penultimate": see `Features before the projection`
    tunes: ClassVar[Mapping[str, Sequence[float]]] = {}  # option -> what is tried on validation rows if it is None
    recipes: ClassVar[Mapping[str, NamedRecipe]] = {"default": NamedRecipe(Recipe(), "the defaults of Recipe")}
    recipe = DefaultRecipe()
    logit_scale: float  # set by `start`
    shapes: Shapes  # set by `build`
    chosen: Tensor  # [len(tunes)] float64, what `tune` chose

    def __init__(self) -> None:
        super().__init__()

    def check(self, dim: int, recipe: Recipe) -> None:
        """Refuse, before any work, options that do not go with D = `dim` or with a recipe. Raises AdapterError."""

    def build(self, shapes: Shapes) -> None:
        """Make every parameter and every buffer. A layer draws its first weights as torch makes it, from torch's global
        generator, which `start` has seeded. To restore a saved adapter, this runs on torch's meta device: nothing is
        drawn, and no tensor has values.
        """
        self.shapes = shapes
        if self.tunes:
            self.register_buffer("chosen", torch.zeros(len(self.tunes), dtype=torch.float64))

    def start(self, support: Support) -> None:
        """Build, on the device and in the precision of the support, and compute from it what the parameters and buffers
        hold at first: `self.weight.copy_(...)` for a parameter, `self.shots = ...` for a buffer. Only `build` draws
        from torch's global generator: the rest of a start may run beside that of other fits.
        """
        if self.reads == "penultimate" and support.projections is None:
            raise AdapterError(
                f"{type(self).__name__} works on features before the towers' last layer, and is given embeddings "
                "alone: fit it on a cache that has such features, too"
            )
        self.check(support.dim, self.recipe)
        self.logit_scale = support.logit_scale
        with seeded(support.seed, support.text.device):
            self.build(Shapes.of(support))
        self.to(support.text)
        if self.tunes:
            self.chosen = torch.zeros(len(self.tunes), dtype=torch.float64)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits [B, C] of unit `image` [B, D] against unit `text` [C, D]."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def loss(self, image: Tensor, text: Tensor, label: Tensor) -> Tensor:
        """What training minimises: mean cross-entropy, to which a method may add its regulariser."""
        return functional.cross_entropy(self(image, text), label)

    def optimizer(self, recipe: Recipe) -> torch.optim.Optimizer:
        """What training steps with."""
        parameters, lr, decay = self.parameters(), recipe.lr, recipe.weight_decay
        match recipe.optimizer:
            case "adam":
                return torch.optim.Adam(parameters, lr=lr, weight_decay=decay, fused=True)
            case "adamw":
                return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=True)
            case "sgd":
                return torch.optim.SGD(parameters, lr=lr, weight_decay=decay, momentum=0.9, fused=True)
        raise AdapterError(f"unknown optimizer {recipe.optimizer!r}: adam, adamw, sgd")

    def options(self) -> dict[str, Any]:
        """The hyper-parameters this adapter was made with: `type(self)(**self.options())` makes it again."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def open_options(self) -> list[str]:
        """The hyper-parameters left to validation rows."""
        return [name for name in self.tunes if getattr(self, name) is None]

    def decided(self, name: str) -> float:
        """A hyper-parameter of `tunes`: as given, or as chosen."""
        given: float | None = getattr(self, name)
        return float(self.chosen[list(self.tunes).index(name)]) if given is None else given

    def choices(self) -> dict[str, float]:
        """After a fit: the hyper-parameters that were left open, as they were chosen."""
        return {name: self.decided(name) for name in self.open_options()}

    def choose(self, values: Mapping[str, float]) -> None:
        """Set hyper-parameters of `tunes` that were left open; those given stay as they are."""
        for name, value in values.items():
            self.chosen[list(self.tunes).index(name)] = value

    def tried(self, name: str) -> Sequence[float]:
        """What to try for a hyper-parameter of `tunes`: the one value given, or the grid."""
        return self.tunes[name] if getattr(self, name) is None else [self.decided(name)]

    def combinations(self, image: Tensor, text: Tensor) -> Iterator[tuple[dict[str, float], Tensor]]:
        """Every combination of what is tried, with its logits [B, C]. A method may override it to share work."""
        for values in product(*(self.tried(name) for name in self.tunes)):
            combination = dict(zip(self.tunes, values, strict=True))
            self.choose(combination)
            yield combination, self(image, text)

    def tune_start(self, image: Tensor, text: Tensor, label: Tensor) -> None:
        """Before training: choose the open hyper-parameters on these rows with the starting weights."""
        self.tune(image, text, label)

    @torch.no_grad()
    def tune(self, image: Tensor, text: Tensor, label: Tensor) -> None:
        """Choose the open hyper-parameters: the first combination of the best accuracy on these rows."""
        best, most = {}, -1
        for values, logits in self.combinations(image, text):
            correct = int((logits.argmax(dim=-1) == label).sum())
            if correct > most:
                best, most = values, correct
        self.choose(best)


class PerClassAdapter(Adapter):
    """An adapter with weights for the classes of its support, and for no others."""

    class_free = False
    classes: Tensor  # [C, D] the texts of the support

    def build(self, shapes: Shapes) -> None:
        """The texts of the support's classes."""
        super().build(shapes)
        self.register_buffer("classes", torch.empty(shapes.classes, shapes.dim))

    def start(self, support: Support) -> None:
        """Remember which classes the weights are for."""
        super().start(support)
        self.classes = support.text

    def check_classes(self, text: Tensor) -> None:
        """Refuse texts [C, D] that are not those of the support. Raises AdapterError."""
        if not same_classes(text, self.classes):
            raise AdapterError(
                f"the weights are for the {len(self.classes)} classes of the support, and these {len(text)} are not"
                " those: score them zero-shot, or with an adapter that takes new classes"
            )


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws from torch's global generator are those of `seed`, and it is left as it was. Without a seed, as it stands.

    One fit of a process at a time: it is the only part of a fit that waits for others.
    """
    if seed is None:
        yield
        return
    with _DRAWING, torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def same_classes(text: Tensor, classes: Tensor) -> bool:
    """Whether texts [C, D] are `classes` in their order, as far as float16 tells."""
    return text is classes or (text.shape == classes.shape and torch.allclose(text, classes, atol=1e-3))


def unit(x: Tensor) -> Tensor:
    """Rows of Euclidean length 1: [..., D] -> [..., D]."""
    return functional.normalize(x, dim=-1)


def blend(delta: Tensor, x: Tensor, lam: float) -> Tensor:
    """unit(lam unit(delta) + (1 - lam) x): how an adaptation joins an embedding (arXiv 2409.02958, released code)."""
    return unit(lam * unit(delta) + (1 - lam) * x)


def zero_shot_logits(image: Tensor, text: Tensor, logit_scale: float) -> Tensor:
    """CLIP without training: logit_scale * cosine, [B, D], [C, D] -> [B, C]."""
    return logit_scale * image @ text.mT


def class_sum(x: Tensor, label: Tensor, classes: int) -> Tensor:
    """Columns [..., N] added up by their class: [..., C]."""
    return x.new_zeros(*x.shape[:-1], classes).index_add_(-1, label, x)


def check_share(name: str, value: float) -> float:
    """A blend weight in [0, 1], or AdapterError."""
    if not 0 <= value <= 1:
        raise AdapterError(f"{name} = {value} is outside [0, 1]")
    return value


def check_at_least(name: str, value: float | None, least: float) -> None:
    """Refuse a number below `least`, or infinite; None passes. Raises AdapterError."""
    if value is not None and not value >= least:
        raise AdapterError(f"{name} = {value} is below {least}")
    if value is not None and not math.isfinite(value):
        raise AdapterError(f"{name} = {value} is not finite")


def check_reduction(reduction: int, dim: int) -> None:
    """Refuse a bottleneck dim // reduction of nothing. Raises AdapterError."""
    if reduction > dim:
        raise AdapterError(f"reduction = {reduction} leaves nothing of {dim} dimensions; use at most {dim}")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is not among `choices`. Raises AdapterError."""
    if value not in choices:
        raise AdapterError(f"{name} = {value!r} is not one of {', '.join(choices)}")
