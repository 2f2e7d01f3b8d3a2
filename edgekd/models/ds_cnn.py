"""DS-CNN: depthwise-separable convolutions for small inputs (Zhang et al. 2017, "Hello Edge")."""

from collections.abc import Sequence

import torch
from torch import nn

from edgekd.models.layers import conv_bn_relu


class DSCNN(nn.Module):
    """A stem convolution, depthwise-separable blocks, global average pooling and one linear layer."""

    def __init__(
        self,
        input_shape: Sequence[int],
        classes: int,
        width: int,
        blocks: int,
        stem_kernel: Sequence[int],
        stem_stride: Sequence[int],
    ) -> None:
        super().__init__()
        self.stem = conv_bn_relu(input_shape[0], width, stem_kernel, stem_stride)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(conv_bn_relu(width, width, 3, groups=width), conv_bn_relu(width, width, 1))
                for _ in range(blocks)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        features = self.blocks(self.stem(inputs))
        logits: torch.Tensor = self.classifier(torch.flatten(self.pool(features), 1))
        return logits


def ds_cnn(
    input_shape: Sequence[int],
    classes: int,
    *,
    width: int = 64,
    blocks: int = 4,
    stem_kernel: Sequence[int] = (3, 3),
    stem_stride: Sequence[int] = (1, 1),
) -> DSCNN:
    """Build a DS-CNN for inputs of shape (channels, height, width); it returns logits, shape (N, classes)."""
    return DSCNN(input_shape, classes, width, blocks, stem_kernel, stem_stride)
