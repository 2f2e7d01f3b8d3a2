"""One seed for all randomness, and only algorithms that give the same numbers again."""

import os
import random

import numpy as np
import torch


def deterministic(seed: int) -> None:
    """Seed Python, numpy and torch, and refuse torch operations that are not repeatable."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA refuses its own multiplications
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
