import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from edgekd.distill.checkpoints import FILE, load, random_state, restore_random, save


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save(tmp_path, "a", {"weights": {"w": torch.arange(3.0)}, "step": 4, "names": ["loss"], "none": None})
    found = load(tmp_path, "a")
    assert found is not None
    assert found["weights"]["w"].tolist() == [0, 1, 2]
    assert (found["step"], found["names"], found["none"]) == (4, ["loss"], None)
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_one_of_another_training_is_not_taken(tmp_path: Path) -> None:
    save(tmp_path, "a", {})
    assert load(tmp_path, "b") is None


def test_none_is_there(tmp_path: Path) -> None:
    assert load(tmp_path, "a") is None


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_damaged_one_is_not_taken(tmp_path: Path, keep: int) -> None:
    save(tmp_path, "a", {"weights": torch.zeros(100)})
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:keep])
    assert load(tmp_path, "a") is None


@pytest.mark.parametrize("content", [b"not a checkpoint", b"PK\x03\x04", b"\x80\x04."])
def test_another_file_is_not_taken(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert load(tmp_path, "a") is None


def test_one_that_would_run_code_is_not_taken(tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({"identity": "a", "harm": Harmful()}, tmp_path / FILE)
    assert load(tmp_path, "a") is None
    assert not (tmp_path / "harm").exists()


def numbers() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()]


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    numbers()
    save(tmp_path, "a", {"random": random_state()})
    first = numbers()
    found = load(tmp_path, "a")
    assert found is not None
    restore_random(found["random"])
    assert numbers() == first
