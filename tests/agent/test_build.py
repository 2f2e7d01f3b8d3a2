"""Compiling the agent for this machine and for others."""

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from edgekd import cache
from edgekd.errors import DependencyError, DeviceError, UsageError
from edgekd.runners import agent as build
from edgekd.runners.agent import build_agent, compile_program
from tests.agent.device import HERE

ELF_MACHINE = {"x86_64": (2, 62), "aarch64": (2, 183), "armv7": (1, 40)}
"""What an ELF header holds: its class (1 for 32 bits, 2 for 64), and the machine's number."""
needs_zig = pytest.mark.skipif(find_spec("ziglang") is None, reason="ziglang is not installed")


@needs_zig
@pytest.mark.parametrize("architecture", ELF_MACHINE)
def test_it_is_compiled_for_each_architecture_once(architecture: str) -> None:
    program = build_agent(architecture)
    header = program.read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert (header[4], int.from_bytes(header[18:20], "little")) == ELF_MACHINE[architecture]
    made = program.stat().st_mtime_ns
    assert build_agent(architecture) == program
    assert program.stat().st_mtime_ns == made
    assert program.is_relative_to(cache.cache_dir())


@needs_zig
@pytest.mark.parametrize("architecture", ELF_MACHINE)
def test_it_needs_no_newer_glibc_than_an_old_board_has(architecture: str) -> None:
    content = build_agent(architecture).read_bytes()
    versions = {
        tuple(map(int, part.split(b"\x00")[0].split(b".")[:2]))
        for part in content.split(b"GLIBC_")[1:]
        if part[:1].isdigit()
    }
    assert versions
    assert max(versions) <= (2, 28)


@needs_zig
def test_without_zig_it_is_compiled_by_the_machines_own_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    if shutil.which("gcc") is None:
        (tmp_path / "gcc").write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang cc "$@"\n')
        (tmp_path / "gcc").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    program = build_agent(HERE)
    assert b'"event":"device"' in subprocess.run([str(program), "describe"], capture_output=True, check=True).stdout
    other = next(name for name in ELF_MACHINE if name != HERE)
    with pytest.raises(DependencyError, match=r"pip install 'edgekd\[devices\]'"):
        build_agent(other)


def test_without_any_compiler_the_command_that_brings_one_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'edgekd\[devices\]'"):
        build_agent("aarch64")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="'riscv64' is not known"):
        build_agent("riscv64")


def test_a_compiler_that_refuses_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int main(void) { return nothing; }\n")
    _, command = build._compiler(
        next(iter(n for n, told in build.MACHINES.items() if told == build.platform.machine()))
    )
    with pytest.raises(DeviceError, match=r"could not be compiled: .*nothing") as caught:
        compile_program(command, [source], tmp_path / "program")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "program").exists()
