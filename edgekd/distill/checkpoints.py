"""Where a training that was killed goes on: everything that its next step depends on, in one file."""

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = "checkpoint.pt"
Content = dict[str, Any]
"""Tensors, numbers, strings, and lists and tables of them: nothing that would run code when it is read."""


def save(folder: Path, identity: str, content: Mapping[str, Any]) -> None:
    """Write the file aside and rename it: a training killed meanwhile finds the one before. identity: see `load`."""
    aside = folder / f"{FILE}.partial"
    with aside.open("wb") as stream:
        torch.save({"identity": identity, **content}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(folder / FILE)


def load(folder: Path, identity: str) -> Content | None:
    """What was saved for the same identity, on the CPU; None where there is nothing, or nothing whole."""
    try:
        content: Content = torch.load(folder / FILE, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception:
        # torch.load raises whatever a damaged file leads it to; such a file is worth no more than none.
        return None
    return content if isinstance(content, dict) and content.get("identity") == identity else None


def random_state() -> Content:
    """The state of every generator that a model may draw from in this process."""
    kind, keys, position, has_normal, normal = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_normal, normal],
        "python": _listed(random.getstate()),
    }


def restore_random(state: Content) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    kind, keys, position, has_normal, normal = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_normal, normal))
    version, numbers, following = state["python"]
    random.setstate((version, tuple(numbers), following))


def _listed(state: tuple[Any, ...]) -> list[Any]:
    version, numbers, following = state
    return [version, list(numbers), following]
