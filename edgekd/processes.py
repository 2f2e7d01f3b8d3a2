"""The processes of one launch, as torchrun, accelerate launch or mpirun start them: the first leads, others follow.

The leader goes through a build as a lone process does. Where a step is to run in all processes it calls the others,
which do nothing else. They speak through the key-value store of torch.distributed, which needs no turn-taking: nobody
is left waiting for one that failed alone.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar, cast

from edgekd.dependencies import TRAINING, require
from edgekd.errors import EdgekdError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
PATIENCE_SECONDS = 10.0
"""How long a process that failed gives the leader to fail alike, and the leader the others to take note of its end."""
POLL_SECONDS = 0.02


def launched() -> int:
    """How many processes the launcher started; 1 without a launcher. Loads nothing."""
    return max(int(os.environ.get(name) or 1) for name in SIZES)


def fewer_than_asked() -> bool:
    """Was accelerate launch told to start several processes, and started one, as it does on a machine without GPUs?"""
    return launched() == 1 and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys()


def join() -> "Crew | None":
    """Meet the other processes of this launch; None if there are none.

    Raises DependencyError if what training needs is not installed.
    """
    if launched() == 1:
        return None
    require(TRAINING, ["train"])
    import torch
    from accelerate import PartialState
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes == 1:
        return None
    return Crew(state.process_index, state.num_processes, PrefixStore("edgekd", _get_default_store()))


def meet() -> None:
    """Wait for the other processes of this launch, if there are any; raises RuntimeError if one of them is gone."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.barrier()


def from_leader(function: Callable[[], T]) -> T:
    """What a function gives in the first process of this launch, the only one that calls it."""
    from torch import distributed

    if not distributed.is_initialized():
        return function()
    box = [function() if distributed.get_rank() == 0 else None]
    distributed.broadcast_object_list(box)
    return cast(T, box[0])


def leave(code: int) -> NoReturn:
    """End this process at once: an orderly end could wait for a collective whose other side has gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


@dataclass
class Crew:
    """This process among those of its launch. Rank 0 leads."""

    rank: int
    count: int
    store: "Store"
    called: int = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def call(self, step: str) -> None:
        """The leader: have the others do their part of a step."""
        self.store.set(f"call {self.called}", step)
        self.called += 1

    def calls(self) -> Iterator[str]:
        """The others: the steps that the leader calls, until it ends. Raises EdgekdError if it is gone without."""
        while True:
            if self._said(key := f"call {self.called}"):
                self.called += 1
                yield self.store.get(key).decode()
            elif self._said("end"):
                return
            else:
                time.sleep(POLL_SECONDS)

    def end(self, code: int) -> None:
        """The leader: it will end with this exit code, and the others with it.

        One that fails leaves the group first: who waits for it in a collective then fails there, and comes to see why.
        """
        from torch import distributed

        self.store.set("end", str(code))
        if code and distributed.get_backend() == "gloo":
            distributed.destroy_process_group()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.store.add("gone", 0) < self.count - 1 and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def ended(self) -> int | None:
        """The others: the leader's exit code, or None if it does not end within a while."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with contextlib.suppress(EdgekdError):
            while not self._said("end"):
                if time.monotonic() > deadline:
                    return None
                time.sleep(POLL_SECONDS)
            code = int(self.store.get("end"))
            self.store.add("gone", 1)
            return code
        return None

    def fail(self, message: str, code: int) -> None:
        """The others: this process alone has failed, and will be gone."""
        with contextlib.suppress(RuntimeError):
            self.store.set("failed", f"{code} {message}")

    def cause(self, error: RuntimeError) -> Exception:
        """The leader: why a step that runs in all processes failed, where another one is at fault; else the error."""
        if self._said("failed"):
            code, _, message = self.store.get("failed").decode().partition(" ")
            failure = EdgekdError(message)
            failure.exit_code = int(code)
            return failure
        if "by peer" in str(error):
            return EdgekdError("another process of this launch is gone; see what it or the system said")
        return error

    def _said(self, key: str) -> bool:
        try:
            return self.store.check([key])
        except RuntimeError as error:
            raise EdgekdError("the main process of this launch is gone; see what it said") from error
