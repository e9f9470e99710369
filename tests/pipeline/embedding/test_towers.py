"""The last layers of open_clip's towers, with random weights: what comes before them, times them, is the embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from mma.pipeline.embedding.checks import check_settings
from mma.pipeline.embedding.clip import Outputs, load_clip
from mma.pipeline.embedding.embed import EmbedSettings
from mma.pipeline.embedding.towers import take_off
from mma.pipeline.errors import UsageError


@pytest.mark.slow
def test_features_times_projection_is_the_embedding_of_a_whole_vision_transformer() -> None:
    name, widths = "ViT-B-32", (768, 512)
    torch.manual_seed(0)
    model = open_clip.create_model(name, load_weights=False).eval()
    pixels, tokens = torch.randn(2, 3, 224, 224), open_clip.get_tokenizer(name)(["a cat", "two dogs"])
    with torch.inference_mode():
        whole = model.encode_image(pixels), model.encode_text(tokens)
        layers = take_off(model, name)
        without = model.encode_image(pixels), model.encode_text(tokens)
        for expected, found, layer, width in zip(whole, without, layers, widths, strict=True):
            embedding, penultimate = layer.split(found)
            assert torch.equal(embedding, expected)  # by the tower's own sums: to the bit
            assert penultimate.shape == (2, width)
            stored = layer.stored()
            product = penultimate.numpy() @ stored.weight + stored.bias
            np.testing.assert_allclose(product, expected.numpy(), rtol=1e-4, atol=1e-4 * np.abs(product).max())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ViT-B-16-SigLIP", r"its image tower \(TimmModel\) does not end in one"),
        ("coca_ViT-B-32", "what a CoCa returns is no linear layer's"),
    ],
)
def test_a_model_without_such_layers_is_refused_before_any_work(name: str, why: str, tmp_path: Path) -> None:
    tag = open_clip.list_pretrained_tags_by_model(name)[0]
    settings = EmbedSettings(
        dataset="nowhere", model=name, pretrained=tag, features="penultimate", cache=tmp_path / "a"
    )
    with pytest.raises(UsageError, match=f"{name} lacks that: {why}"):
        check_settings(settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16", "convnext_base", "RN50"])
def test_other_towers_with_such_layers_are_not_refused(name: str) -> None:
    with torch.device("meta"):
        layers = take_off(open_clip.create_model(name, load_weights=False, device="meta"), name)
    assert [tuple(layer.weight.shape) for layer in layers] == {
        "ViT-B-16": [(768, 512), (512, 512)],
        "convnext_base": [(1024, 512), (512, 512)],
        "RN50": [(2048, 1024), (512, 1024)],
    }[name]


def test_the_demo_model_a_resnet_gives_both_in_one_pass_and_the_same_embeddings_as_without() -> None:
    plain, both = load_clip("tiny", ""), load_clip("tiny", "", features="penultimate")
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    seen: Outputs = both.see(pixels)
    assert np.array_equal(seen.embedding, plain.encode_image(pixels))
    assert plain.see(pixels).penultimate is None
    assert seen.penultimate is not None
    assert seen.penultimate.shape == (3, 512)
    assert both.widths == {"image": 512, "text": 48}
    layer = both.projections()["image"]
    np.testing.assert_allclose(seen.penultimate @ layer.weight + layer.bias, seen.embedding, rtol=1e-4, atol=1e-4)
