"""One seed for all randomness, and only algorithms that give the same numbers again."""

import random

import numpy as np
import torch


def deterministic(seed: int) -> None:
    """Seed Python, numpy and torch, and refuse torch operations that are not repeatable."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
