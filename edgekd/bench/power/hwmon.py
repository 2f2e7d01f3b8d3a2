"""Power monitors in /sys/class/hwmon: INA2xx, INA3221 and the like."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekd.bench.power.source import NoSource, Power, Series, Source, product

CHANNEL = re.compile(r"(/sys/class/hwmon/hwmon\d+)/(?:power|curr)(\d+)_input")
BUS_CHANNELS = {"ina3221": 3}
"""Where a chip's voltages of a higher number are no bus voltages: how many are."""


@dataclass(frozen=True)
class _Channel:
    chip: str
    label: str
    paths: tuple[str, ...]

    @property
    def what(self) -> str:
        return f"{self.label or self.paths[0].rpartition('/')[2]} of {self.chip or 'a nameless chip'}"


def find(sensors: Mapping[str, str], chip: str | None = None, label: str | None = None) -> Source | NoSource:
    """The one channel with this chip's name and this label; of INA chips alone if neither is given."""
    channels = _channels(sensors)
    if chip is None and label is None:
        fitting = [one for one in channels if one.chip.startswith("ina")]
    else:
        fitting = [one for one in channels if chip in (None, one.chip) and label in (None, one.label)]
    if len(fitting) == 1:
        (channel,) = fitting
        return Source("hwmon", channel.what, channel.paths, watts)
    if fitting:
        return NoSource(f"which hwmon sensor is meant? {_listed(fitting)}; say it by chip and label under [power]")
    if not channels or (chip is None and label is None):
        return NoSource("no hwmon power sensor can be read")
    wanted = " of ".join(word for word in (label, chip) if word is not None)
    return NoSource(f"no hwmon power sensor is {wanted}; there are: {_listed(channels)}")


def watts(samples: Sequence[Series], _offset_ns: int = 0) -> Power:
    """Power from one series in microwatts, or from a current in milliamperes and a voltage in millivolts."""
    if len(samples) == 1:
        return Power(samples[0].times_ns, samples[0].values / 1e6)
    times, microwatts = product(samples[0], samples[1])
    return Power(times, microwatts / 1e6)


def _channels(sensors: Mapping[str, str]) -> list[_Channel]:
    numbers = sorted({(match[1], int(match[2])) for match in map(CHANNEL.fullmatch, sensors) if match})
    found = []
    for folder, number in numbers:
        chip = sensors.get(f"{folder}/name", "")
        labels = [sensors.get(f"{folder}/{kind}{number}_label", "") for kind in ("power", "in", "curr")]
        power, current, voltage = (f"{folder}/{kind}{number}_input" for kind in ("power", "curr", "in"))
        if power in sensors:
            paths: tuple[str, ...] = (power,)
        elif voltage in sensors and number <= BUS_CHANNELS.get(chip, number):
            paths = (current, voltage)
        else:
            continue
        found.append(_Channel(chip, next(filter(None, labels), ""), paths))
    return found


def _listed(channels: Sequence[_Channel]) -> str:
    return ", ".join(channel.what for channel in channels)
