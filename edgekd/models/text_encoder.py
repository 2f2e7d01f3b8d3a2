"""A small BERT-style encoder (Devlin et al. 2018) for classification of short texts."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention over all positions; the scale is that of the width it was built with."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        count, length, _ = inputs.shape

        def split(rows: torch.Tensor) -> torch.Tensor:
            return rows.reshape(count, length, self.heads, -1).transpose(1, 2)

        query, key, value = split(self.query(inputs)), split(self.key(inputs)), split(self.value(inputs))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        outputs: torch.Tensor = self.output(mixed.transpose(1, 2).reshape(count, length, -1))
        return outputs


class Block(nn.Module):
    """Attention and a two-layer network, each added to its input and normalised (post-norm, as in BERT)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.attention_norm = SelfAttention(width, heads), nn.LayerNorm(width)
        self.expand, self.reduce, self.norm = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        attended = self.attention_norm(inputs + self.dropout(self.attention(inputs)))
        hidden = torch.relu(self.expand(attended))
        outputs: torch.Tensor = self.norm(attended + self.dropout(self.reduce(hidden)))
        return outputs


class TextEncoder(nn.Module):
    """Token and position embeddings, blocks, the mean over positions and one linear layer."""

    def __init__(
        self,
        length: int,
        classes: int,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(1, length, width) * 0.02)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden, dropout) for _ in range(layers)))
        self.classifier = nn.Linear(width, classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        embedded = self.dropout(self.norm(self.tokens(inputs) + self.positions))
        logits: torch.Tensor = self.classifier(self.dropout(self.blocks(embedded).mean(dim=1)))
        return logits


def text_encoder(
    input_shape: Sequence[int],
    classes: int,
    vocabulary: int,
    *,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    hidden: int = 128,
    dropout: float = 0.1,
) -> TextEncoder:
    """Build an encoder for token ids, int32, of shape (length,); it returns logits, shape (N, classes).

    ReLU stands between the layers of a block, as in MobileBERT (Sun et al. 2020): runtimes have no int8 kernel for
    GELU. Padding is a token like any other, with an embedding that is learned. The proportions of TinyBERT (Jiao et al.
    2020) are layers 4, width 312, hidden 1200, heads 12.
    """
    return TextEncoder(input_shape[0], classes, vocabulary, width, layers, heads, hidden, dropout)
