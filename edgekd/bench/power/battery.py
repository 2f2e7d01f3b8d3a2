"""A device's own battery: the current that leaves it times its voltage, while it discharges."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from edgekd.bench.power.source import NoSource, Power, Series, Source, product

FOLDER = "/sys/class/power_supply"
TYPE = re.compile(rf"{FOLDER}/([^/]+)/type")


def find(sensors: Mapping[str, str]) -> Source | NoSource:
    """The battery that discharges and tells current and voltage, or power."""
    names = sorted(match[1] for path, text in sensors.items() if (match := TYPE.fullmatch(path)) and text == "Battery")
    if not names:
        return NoSource("there is no battery")
    reasons = []
    for name in names:
        current, voltage, power = (f"{FOLDER}/{name}/{kind}_now" for kind in ("current", "voltage", "power"))
        status = sensors.get(f"{FOLDER}/{name}/status", "unknown")
        paths = (current, voltage) if current in sensors and voltage in sensors else (power,)
        if status != "Discharging":
            reasons.append(f"the battery {name} is not discharging ({status.lower()}); unplug the charger")
        elif paths[0] not in sensors:
            reasons.append(f"the battery {name} tells neither its current and voltage nor its power")
        else:
            return Source("battery", f"the battery {name}", paths, watts)
    return NoSource("; ".join(reasons))


def watts(samples: Sequence[Series], _offset_ns: int = 0) -> Power:
    """Power from microamperes and microvolts, or from microwatts.

    Drivers disagree on the sign of what leaves the battery: it is the one that the readings have most of the time,
    and what has the other sign comes out below zero.
    """
    if len(samples) == 1:
        times, power = samples[0].times_ns, samples[0].values / 1e6
    else:
        times, products = product(samples[0], samples[1])
        power = products / 1e12
    return Power(times, -power if np.sum(np.sign(power)) < 0 else power)
