"""Where power is read. One small module a source."""

from collections.abc import Mapping

from edgekd.bench.power import battery, hwmon, meter_csv, rapl
from edgekd.bench.power.source import NoSource, Source
from edgekd.device import PowerFigures

NOTHING = PowerFigures()


def find_source(sensors: Mapping[str, str], figures: PowerFigures | None = None) -> Source | NoSource:
    """The source that a profile names; if it names none, the first of hwmon, RAPL and battery that can be read.

    sensors: what the agent found: the first line of every readable file by its path.
    Raises UsageError if a meter's file is named and is not there.
    """
    figures = figures or NOTHING
    if figures.csv is not None:
        return meter_csv.find(figures.csv)
    if figures.source == "hwmon":
        return hwmon.find(sensors, figures.chip, figures.label)
    if figures.source == "rapl":
        return rapl.find(sensors)
    if figures.source == "battery":
        return battery.find(sensors)
    tried = [hwmon.find(sensors), rapl.find(sensors), battery.find(sensors)]
    reasons = "; ".join(one.why for one in tried if isinstance(one, NoSource))
    return next((one for one in tried if isinstance(one, Source)), NoSource(reasons))
