"""Launches of two: who speaks, and how all end where one fails."""

import pytest

from edgekd import processes
from tests.conftest import Run
from tests.launch import launch


def lines(run: Run) -> list[str]:
    return [line for line in run.stderr.splitlines() if line.startswith("edgekd: ")]


def test_the_leader_alone_speaks() -> None:
    leader, follower = launch("tests.crew", ["second"], count=2)
    assert (leader.code, follower.code) == (0, 0)
    assert (leader.stdout, follower.stdout) == ("done\n", "")


@pytest.mark.parametrize(
    ("case", "code", "message"),
    [
        ("both fail", 5, "edgekd: training diverged"),
        ("leader fails", 2, "edgekd: the leader's folder is full"),
        ("leader fails between", 5, "edgekd: a budget is broken"),
        ("both refuse", 2, "edgekd: no such recipe"),
    ],
)
def test_all_end_with_the_code_of_a_leader_that_fails(case: str, code: int, message: str) -> None:
    leader, follower = launch("tests.crew", [case], count=2)
    assert (leader.code, follower.code) == (code, code)
    assert lines(leader) == [message]
    assert lines(follower) == []
    assert follower.stdout == ""


def test_all_end_with_the_code_of_one_that_fails_alone() -> None:
    leader, follower = launch("tests.crew", ["follower fails"], count=2)
    assert (leader.code, follower.code) == (2, 2)
    assert lines(leader) == lines(follower) == ["edgekd: the follower's folder is full"]


@pytest.mark.parametrize("case", ["follower dies", "leader dies"])
def test_nobody_waits_for_the_dead(case: str) -> None:
    runs = launch("tests.crew", [case], count=2)
    dead, other = reversed(runs) if case == "follower dies" else runs
    assert dead.code == -9
    assert other.code == 1
    assert len(lines(other)) == 1


@pytest.mark.parametrize(
    ("variables", "count", "fewer"),
    [
        ({}, 1, False),
        ({"WORLD_SIZE": "1"}, 1, False),
        ({"WORLD_SIZE": "2"}, 2, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, 1, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, 1, True),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, 2, False),
    ],
)
def test_the_environment_says_how_many(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], count: int, fewer: bool
) -> None:
    for name in (*processes.SIZES, "ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (processes.launched(), processes.fewer_than_asked()) == (count, fewer)
