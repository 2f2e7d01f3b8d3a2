"""What can go wrong, each with the exit code that the command line ends with.

A message is one line: what happened, where, and what to do about it.
"""


class EdgekdError(Exception):
    """Anything edgekd stops for on purpose."""

    exit_code = 1


class UsageError(EdgekdError):
    """A wrong argument, recipe, weights file or data set; a place that cannot be read or written."""

    exit_code = 2


class DependencyError(EdgekdError):
    """A package or tool that this build needs is not installed."""

    exit_code = 3


class ExportError(EdgekdError):
    """A model could not be brought into the target's format."""

    exit_code = 4


class GateError(EdgekdError):
    """A result was produced and then failed a check: parity, accuracy or a budget."""

    exit_code = 5


class DeviceError(EdgekdError):
    """A device could not be reached, or its runtime refused or crashed."""

    exit_code = 6


class MeasurementError(EdgekdError):
    """A measurement was taken but is not stable enough to be reported."""

    exit_code = 7


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
