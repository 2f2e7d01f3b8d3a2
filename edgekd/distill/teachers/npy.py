"""Arrays as .npy bytes, to whoever answers elsewhere and back. What comes back is not trusted."""

import io
import math

import numpy as np

from edgekd.errors import UsageError

HEADER = 1 << 16
NUMBER = 16
"""Bytes of a header, and of one number, at most."""


def to_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def from_npy(content: bytes, name: str) -> np.ndarray:
    """The array of a .npy file. Raises UsageError for anything else, and for more or fewer bytes than it says."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)  # type: ignore[no-untyped-call]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise UsageError(f"{name}: its answer is no .npy array of {len(content)} bytes ({error})") from error
    if dtype.kind not in "fiu":
        raise UsageError(f"{name}: its answer is an array of {dtype}; numbers are wanted")
    data = content[stream.tell() :]
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise UsageError(
            f"{name}: its answer of shape {shape} has {len(data)} bytes of {math.prod(shape) * dtype.itemsize}"
        )
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def largest(samples: int, outputs: int) -> int:
    """Bytes that the answer to so many samples may have."""
    return HEADER + NUMBER * samples * (outputs + 1024)
