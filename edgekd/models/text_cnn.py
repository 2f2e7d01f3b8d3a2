"""TextCNN: convolutions over word embeddings and the largest answer of each over time (Kim 2014)."""

from collections.abc import Sequence

import torch
from torch import nn


class TextCNN(nn.Module):
    """Embeddings as a one-column image, a convolution for each number of words, max over time, one linear layer."""

    def __init__(
        self,
        length: int,
        classes: int,
        vocabulary: int,
        width: int,
        channels: int,
        kernels: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.tokens.weight, std=0.1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, (size, 1)), nn.ReLU(), nn.MaxPool2d((length - size + 1, 1)))
            for size in kernels
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels * len(kernels), classes)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        embedded = self.dropout(self.tokens(inputs)).unsqueeze(2).permute(0, 3, 1, 2)
        found = torch.cat([branch(embedded) for branch in self.branches], dim=1)
        logits: torch.Tensor = self.classifier(self.dropout(torch.flatten(found, 1)))
        return logits


def text_cnn(
    input_shape: Sequence[int],
    classes: int,
    vocabulary: int,
    *,
    width: int = 64,
    channels: int = 64,
    kernels: Sequence[int] = (3, 4, 5),
    dropout: float = 0.5,
) -> TextCNN:
    """Build a TextCNN for token ids, int32, of shape (length,); it returns logits, shape (N, classes)."""
    return TextCNN(input_shape[0], classes, vocabulary, width, channels, kernels, dropout)
