"""What the layout pass of litert-torch does not know by itself."""

import torch

DIMENSIONS = 4
"""Of an image, channels first."""


def know_padding() -> None:
    """Let a constant padding be done channels last, as the layers around it are.

    The converter has no rule for it: it puts a transpose on both sides, or fails where what is padded has other users.
    """
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import layout_rewrite

    layout_rewrite.rewriters[torch.ops.aten.constant_pad_nd.default] = _pad_channels_last


def _pad_channels_last(node: torch.fx.Node) -> None:
    """A padding has two numbers a dimension, those of the last one first; dimensions without are not padded."""
    inputs, given, *value = node.args
    sides = [*given, *[0] * (2 * DIMENSIONS - len(given))]  # type: ignore[arg-type, misc]
    width, height, channels, samples = (sides[start : start + 2] for start in range(0, len(sides), 2))
    node.args = (inputs, [*channels, *width, *height, *samples], *value)
