"""What pruning does to the run time of a MobileNetV2 in int8: TFLite, one thread, weights that nobody trained.

python -m benchmarks.pruned_latency [--json FILE]

A time ratio is the pruned file's time over that of the unpruned one, both run in turns in fresh processes
(`edgekd.bench.interleaved`), with its 95 % interval. The measurements that chose the channels are not among them.
"""

import argparse
import dataclasses
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.students import DIGITS, SEED, card_of, settled
from benchmarks.surroundings import surroundings
from benchmarks.untrained import CALIBRATION, MOBILENET, NETWORKS
from edgekd.bench.interleaved import Comparison, compare
from edgekd.compress.latency import share_of_latency
from edgekd.compress.prune import prune
from edgekd.export.draft import draft
from edgekd.models.build import parameter_count
from edgekd.models.cost import macs
from edgekd.runners import host
from edgekd.seeding import deterministic
from edgekd.target import load_target
from edgekd.tasks.outline import Outline

RESULTS = Path(__file__).parent / "results" / "pruned_latency.json"
PACKAGES = ("ai-edge-litert", "litert-torch", "nncf", "torch", "torch-pruning")
TARGET = load_target("tflite-arm")
HALF, SHARE = 0.5, 0.65
"""Of the multiply-accumulates, and of the latency, to keep."""


def students() -> dict[str, nn.Module]:
    """The unpruned student first."""
    shape, make = NETWORKS[MOBILENET]
    torch.manual_seed(SEED)
    inputs, example = torch.randn(CALIBRATION, *shape), torch.zeros(1, *shape)
    whole, cost = settled(make(), inputs), partial(macs, example=example)
    data = Outline(shape, DIGITS, "classification", CALIBRATION, None, {"input": "features"})
    with share_of_latency(whole, data, TARGET, SEED) as latency:
        by_latency = prune(whole, example, latency, SHARE, guide=cost)
    return {
        "unpruned": whole,
        f"macs = {HALF}": prune(whole, example, cost, HALF),
        f"latency = {SHARE}": by_latency,
        f"{HALF:.0%} of the MACs, as by latency": prune(whole, example, cost, HALF, guide=cost),
    }


def measured(models: dict[str, nn.Module], folder: Path) -> dict[str, Comparison]:
    """All but the first, each against it."""
    shape, _ = NETWORKS[MOBILENET]
    samples = torch.randn(CALIBRATION, *shape, generator=torch.Generator().manual_seed(SEED))
    files = []
    for place, model in enumerate(models.values()):
        (folder / str(place)).mkdir()
        files.append(draft(model, samples, TARGET, card_of(MOBILENET, DIGITS), folder / str(place)).file)
    return {name: compare(file, files[0]) for name, file in zip(list(models)[1:], files[1:], strict=True)}


def rows(models: dict[str, nn.Module], latencies: dict[str, Comparison]) -> list[dict[str, Any]]:
    whole = next(iter(models.values()))
    example = torch.zeros(1, *NETWORKS[MOBILENET][0])
    return [
        {
            "student": name,
            "macs": macs(model, example),
            "macs_kept": macs(model, example) / macs(whole, example),
            "params_kept": parameter_count(model) / parameter_count(whole),
            "latency": dataclasses.asdict(latencies[name]) if name in latencies else None,
            "channels": [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)],
        }
        for name, model in models.items()
    ]


def line(row: dict[str, Any]) -> str:
    taken = row["latency"]
    ratio = taken["ratio"] if taken else {"value": 1.0, "low": 1.0, "high": 1.0}
    time = f"{ratio['value']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})"
    return f"{row['student']:32} {row['macs_kept']:8.3f} {row['params_kept']:8.3f}   {time}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE")
    arguments = parser.parse_args()
    deterministic(SEED)
    models = students()
    before = host.state()
    with tempfile.TemporaryDirectory(prefix="edgekd-") as place:
        found = rows(models, measured(models, Path(place)))
    print(f"{MOBILENET:32} {'MACs':>8} {'params':>8}   time ratio (95 % interval)")
    print("\n".join(map(line, found)))
    document = {"rows": found, **surroundings(PACKAGES, before)}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
