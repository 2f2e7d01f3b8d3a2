"""What an exported file says about itself, in its format's own metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgekd import __version__
from edgekd.distill.config import Outputs
from edgekd.tasks.dataset import raw_pixels

Output = Literal["logits", "probabilities", "numbers"]


def output_of(wanted: Literal["logits", "probabilities"], outputs: Outputs) -> Output:
    """What comes out of a file where a target wants logits or probabilities: a regression has neither."""
    return "numbers" if outputs == "regression" else wanted


def meaning(output: Output, outputs: Outputs) -> str:
    """How an app reads the answer, in words."""
    if outputs == "regression":
        return "numbers, in the order of the labels"
    if outputs == "multi-label":
        return f"{output}; each label above {'0.5' if output == 'probabilities' else '0'} holds"
    return f"{output}; the largest is the answer"


@dataclass(frozen=True)
class Card:
    """For the app that opens the file: what goes in, what comes out, and how to read it.

    labels: names of the outputs, in order. output: what the numbers that come out are. preprocessing: the way from the
    app's raw sample to the file's input, as JSON (`input` is "raw pixels", "token ids" or a feature). outputs: what
    they say: one class of many, any number of labels, or numbers.
    """

    name: str
    labels: tuple[str, ...]
    output: Output
    preprocessing: Mapping[str, Any]
    outputs: Outputs = "classification"

    @property
    def pixels(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the normalisation, where the app hands over raw pixels of 0 to 255."""
        return raw_pixels(self.preprocessing)

    @property
    def is_classifier(self) -> bool:
        """Are there probabilities of which one class is the answer?"""
        return self.output == "probabilities" and self.outputs == "classification"

    def properties(self) -> dict[str, str]:
        """Name -> text, for formats whose metadata is a list of pairs."""
        return {
            "edgekd.version": __version__,
            "edgekd.name": self.name,
            "edgekd.output": self.output,
            "edgekd.outputs": self.outputs,
            "edgekd.labels": json.dumps(self.labels, ensure_ascii=False, separators=(",", ":")),
            "edgekd.preprocessing": json.dumps(self.preprocessing, ensure_ascii=False, separators=(",", ":")),
        }
