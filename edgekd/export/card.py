"""What an exported file says about itself, in its format's own metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekd import __version__
from edgekd.tasks.dataset import raw_pixels


@dataclass(frozen=True)
class Card:
    """For the app that opens the file: what goes in, what comes out, and how to read it.

    labels: class names in the order of the outputs. output: what the numbers that come out are. preprocessing: the
    way from the app's raw sample to the file's input, as JSON (`input` is "raw pixels", "token ids" or a feature).
    """

    name: str
    labels: tuple[str, ...]
    output: Literal["logits", "probabilities"]
    preprocessing: Mapping[str, Any]

    @property
    def pixels(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the normalisation, where the app hands over raw pixels of 0 to 255."""
        return raw_pixels(self.preprocessing)

    def properties(self) -> dict[str, str]:
        """Name -> text, for formats whose metadata is a list of pairs."""
        return {
            "edgekd.version": __version__,
            "edgekd.name": self.name,
            "edgekd.output": self.output,
            "edgekd.labels": json.dumps(self.labels, ensure_ascii=False, separators=(",", ":")),
            "edgekd.preprocessing": json.dumps(self.preprocessing, ensure_ascii=False, separators=(",", ":")),
        }
