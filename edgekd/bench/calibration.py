"""What a device's processor can do: measured by the agent and kept with its date, or taken from the profile."""

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from edgekd.config import STRICT, read_text, validate
from edgekd.device import DeviceProfile, device_label
from edgekd.errors import DeviceError, UsageError
from edgekd.fields import Positive

CALIBRATIONS = "calibrations"
"""Where they are, below the cache."""
RATES = ("bandwidth_bytes_per_s", "float32_flops_per_s", "int8_ops_per_s")


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What the agent measured on one core of a device. date: ISO 8601, UTC."""

    device: str
    date: str
    bandwidth_bytes_per_s: Positive
    float32_flops_per_s: Positive
    int8_ops_per_s: Positive


@dataclass(frozen=True)
class Hardware:
    """What one core could do at best; None where nobody knows. A multiply-accumulate is two operations.

    memory_bandwidth_bytes_per_s: of the whole memory where it is from a profile. source: where the numbers are from,
    and for measured ones from when.
    """

    memory_bandwidth_bytes_per_s: float | None
    float32_flops_per_s: float | None
    int8_ops_per_s: float | None
    source: str


def store(name: str, rates: Mapping[str, Any], folder: Path) -> Calibration:
    """Keep what the agent's `rates` event says about a device in `folder`, with this moment as its date.

    It is written aside and renamed. Raises DeviceError if the event has no three positive numbers, UsageError if the
    folder cannot be written.
    """
    label = device_label(name)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = Calibration(label, date, *(_rate(rates, key, label) for key in RATES))
    file = _file(label, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".partial", delete=False) as stream:
            json.dump(asdict(found), stream, indent=2)
        Path(stream.name).replace(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror}); make room, or mend its rights") from error
    return found


def load(name: str, folder: Path) -> Calibration | None:
    """What was measured on a device, or None if nothing was; raises UsageError for a file that says something else."""
    file = _file(device_label(name), folder)
    if not file.exists():
        return None
    mend = "remove it, or calibrate again"
    try:
        document = json.loads(read_text(file))
        datetime.fromisoformat(document["date"])
        return validate(Calibration, document, str(file))
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{file}: not a calibration; {mend}") from None
    except UsageError as error:
        raise UsageError(f"{error}; {mend}") from error


def hardware_of(name: str, profile: DeviceProfile, folder: Path) -> Hardware:
    """A core's rates: those that were measured on this device, else those of its profile, and which they are."""
    found = load(name, folder)
    if found is not None:
        return Hardware(
            found.bandwidth_bytes_per_s,
            found.float32_flops_per_s,
            found.int8_ops_per_s,
            f"calibrated on {found.date[:10]}",
        )
    figures = profile.hardware
    if figures is None:
        return Hardware(None, None, None, "nothing is known; calibrate the device")
    float32, int8 = (
        None if rate is None else rate / figures.cores for rate in (figures.float32_flops_per_s, figures.int8_ops_per_s)
    )
    return Hardware(figures.memory_bandwidth_bytes_per_s, float32, int8, "the device's profile")


def _rate(rates: Mapping[str, Any], key: str, label: str) -> float:
    value = rates.get(key)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0:
        return float(value)
    raise DeviceError(f"{label}: the agent measured {key} as {value!r}, which is no rate; calibrate again")


def _file(label: str, folder: Path) -> Path:
    return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '-', label)}.json"
