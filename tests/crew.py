"""A command in several processes of a launch: python -m tests.crew CASE."""

import os
import signal
import sys
import time

from edgekd import cli, processes
from edgekd.commands import Result
from edgekd.errors import GateError, UsageError
from edgekd.processes import Crew


def sum_of_ranks(crew: Crew) -> int:
    import torch
    from torch import distributed

    total = torch.tensor(crew.rank)
    distributed.all_reduce(total)
    return int(total)


def step(name: str, crew: Crew) -> None:
    if name == "both fail":
        raise GateError("training diverged")
    if name == "follower fails" and not crew.leads:
        raise UsageError("the follower's folder is full")
    if name == "leader fails" and crew.leads:
        raise UsageError("the leader's folder is full")
    if name == "follower dies" and not crew.leads:
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "leader dies" and crew.leads:
        os.kill(os.getpid(), signal.SIGKILL)
    assert sum_of_ranks(crew) == sum(range(crew.count))


def lead(crew: Crew | None) -> Result:
    assert crew is not None
    case = sys.argv[1]
    if case == "leader fails between":
        raise GateError("a budget is broken")
    for name in ("first", case):
        crew.call(name)
        try:
            step(name, crew)
        except RuntimeError as error:
            raise crew.cause(error) from error
        time.sleep(0.1)
    return Result({"case": case}, "done")


def follow(crew: Crew) -> None:
    print("nobody reads this")
    if sys.argv[1] == "both refuse":
        raise UsageError("no such recipe")
    for name in crew.calls():
        step(name, crew)


def refuse(crew: Crew | None) -> Result:
    raise UsageError("no such recipe")


if __name__ == "__main__":
    processes.PATIENCE_SECONDS = 4.0
    cli._run_in_all(refuse if sys.argv[1] == "both refuse" else lead, follow, as_json=False, debug=False)
