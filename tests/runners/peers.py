"""What tests against real peers need: it is fetched on demand, and where that cannot be, they are skipped."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from edgekd.errors import DependencyError

T = TypeVar("T")


def needed(make: Callable[[], T]) -> T:
    """What `make` gives; the test is skipped with the reason where it cannot be had here."""
    try:
        return make()
    except DependencyError as error:
        pytest.skip(str(error))
