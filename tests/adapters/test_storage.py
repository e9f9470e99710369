from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from mma.adapters import Adapter, AdapterError, Shapes, Support, fit, from_bytes, to_bytes, zero_shot_logits
from mma.adapters.clip_adapter import ClipAdapter
from mma.adapters.gda import GaussianDiscriminant
from mma.adapters.mma import MultiModalAdapter
from mma.adapters.proker import ProximalKernelRidge
from mma.adapters.rada_adapter import RAdaAdapter
from mma.adapters.registry import BUILT_IN, registered
from mma.adapters.storage import METADATA
from mma.adapters.tip_adapter import TipAdapterF

from .toy import toy


def saved(adapter: Adapter) -> bytes:
    support = toy().support
    fit(adapter, support, adapter.recipe, seed=0, validation=toy().validation)
    return to_bytes(adapter)


def header_of(data: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", data[:8])
    header: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][METADATA])
    return header


def changed(data: bytes, **header: Any) -> bytes:
    """The same weights under another header."""
    metadata = {METADATA: json.dumps({**header_of(data), **header})}
    return safetensors.torch.save(safetensors.torch.load(data), metadata=metadata)


def test_what_is_saved_is_safetensors_and_says_what_it_is() -> None:
    data = saved(ClipAdapter(ratio=0.3))
    assert header_of(data)["adapter"] == "clip-adapter"
    assert header_of(data)["options"]["ratio"] == 0.3
    assert set(safetensors.torch.load(data)) == {"image_bottleneck.0.weight", "image_bottleneck.2.weight"}


@pytest.mark.slow
def test_equal_adapters_are_equal_bytes() -> None:
    assert saved(ClipAdapter()) == saved(ClipAdapter())


def test_what_was_chosen_on_validation_is_saved() -> None:
    adapter = GaussianDiscriminant()
    data = saved(adapter)
    loaded = from_bytes(data)
    assert loaded.options()["alpha"] is None
    assert loaded.decided("alpha") == adapter.decided("alpha") > 0


@pytest.mark.parametrize("kind", [ProximalKernelRidge, TipAdapterF, MultiModalAdapter])
def test_loading_repeats_nothing_of_the_fit(kind: type[Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(kind())
    monkeypatch.setattr(kind, "start", lambda *_: pytest.fail("it was started again"))
    assert isinstance(from_bytes(data), kind)


@pytest.mark.parametrize("kind", [ClipAdapter, MultiModalAdapter, RAdaAdapter])
def test_loading_draws_nothing(kind: type[Adapter], monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(kind())
    state = torch.random.get_rng_state()
    monkeypatch.setattr(torch.random, "fork_rng", lambda *_: pytest.fail("something may be drawn"))
    from_bytes(data)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [ClipAdapter, TipAdapterF, GaussianDiscriminant])
def test_what_is_loaded_is_saved_as_the_same_bytes(kind: type[Adapter], dtype: torch.dtype) -> None:
    data = toy(dtype=dtype, views=3)
    adapter = kind()
    fit(adapter, data.support, replace(adapter.recipe, epochs=2), seed=0, validation=data.validation)
    saved = to_bytes(adapter)
    loaded = from_bytes(saved)
    assert to_bytes(loaded) == saved
    assert [weight.requires_grad for weight in loaded.parameters()] == [True] * len(list(adapter.parameters()))


def test_a_tensor_whose_name_has_a_dot_is_restored_in_a_closed_form_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever layers a closed form keeps what it computed in."""

    class Whitened(Adapter):
        trains = False
        layer: nn.Linear

        def build(self, shapes: Shapes) -> None:
            super().build(shapes)
            self.layer = nn.Linear(shapes.dim, shapes.dim)
            self.layer.register_buffer("spectrum", nn.UninitializedBuffer())

        @torch.no_grad()
        def start(self, support: Support) -> None:
            super().start(support)
            self.layer.weight.copy_(support.image.mT @ support.image)
            self.layer.spectrum = torch.linalg.eigvalsh(self.layer.weight).clamp(min=1e-3).unique()

        def forward(self, image: Tensor, text: Tensor) -> Tensor:
            return zero_shot_logits(self.layer(image), text, self.logit_scale) + self.layer.spectrum.sum()

    monkeypatch.setitem(BUILT_IN, "whitened", Whitened)
    registered.cache_clear()
    try:
        adapter, data = Whitened(), toy()
        fit(adapter, data.support, adapter.recipe, seed=0)
        loaded = from_bytes(to_bytes(adapter))
    finally:
        registered.cache_clear()
    assert torch.equal(loaded(data.test.image, data.support.text), adapter(data.test.image, data.support.text))


def test_a_tensor_that_is_made_by_build_and_not_saved_is_refused_when_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(ClipAdapter())
    build = ClipAdapter.build

    def with_a_mask(self: ClipAdapter, shapes: Shapes) -> None:
        build(self, shapes)
        self.register_buffer("mask", torch.ones(shapes.dim), persistent=False)

    monkeypatch.setattr(ClipAdapter, "build", with_a_mask)
    with pytest.raises(AdapterError, match=r"^clip-adapter makes mask in `build` and does not save it: make it in"):
        from_bytes(data)


@pytest.mark.parametrize("change", ["missing", "more"])
def test_tensors_that_are_missing_or_too_many_are_refused(change: str) -> None:
    data = saved(GaussianDiscriminant())
    tensors = safetensors.torch.load(data)
    if change == "missing":
        del tensors["shots"]
    else:
        tensors["extra"] = torch.zeros(1)
    with pytest.raises(AdapterError, match=r"the weights do not fit gda: .*(shots|extra)"):
        from_bytes(safetensors.torch.save(tensors, metadata={METADATA: json.dumps(header_of(data))}))


@pytest.mark.parametrize("data", [b"", b"short", b"\x80\x04\x95not a pickle either" + b"\0" * 40])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(AdapterError, match="not the weights of an adapter"):
        from_bytes(data)


@pytest.mark.parametrize(
    "header",
    [
        {"adapter": "nothing"},
        {"options": {"radio": 1}},
        {"options": 5},
        {"rows": "many"},
        {"logit_scale": None},
        {"dim": None},
    ],
)
def test_a_header_that_cannot_be_is_refused(header: dict[str, Any]) -> None:
    data = saved(ClipAdapter())
    with pytest.raises(AdapterError, match="not the weights of an adapter"):
        from_bytes(changed(data, **header))


def test_weights_of_another_shape_are_refused_naming_the_adapter() -> None:
    data = saved(ClipAdapter())
    with pytest.raises(AdapterError, match="the weights do not fit clip-adapter") as refused:
        from_bytes(changed(data, options=ClipAdapter(reduction=2).options()))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("header", [{"classes": -1}, {"classes": 4}, {"dim": 10**15}])
def test_shapes_that_the_weights_do_not_have_are_refused(header: dict[str, Any]) -> None:
    with pytest.raises(AdapterError, match="the weights do not fit gda"):
        from_bytes(changed(saved(GaussianDiscriminant()), **header))


def test_an_adapter_that_is_not_registered_cannot_be_saved() -> None:
    class Unknown(ClipAdapter):
        pass

    with pytest.raises(AdapterError, match="Unknown is not registered"):
        saved(Unknown())
