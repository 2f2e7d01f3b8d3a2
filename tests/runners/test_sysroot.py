"""Debian packages of any architecture, unpacked beside the host and not into it."""

import shutil
from pathlib import Path

import pytest

from edgekd.errors import DependencyError
from edgekd.runners.sysroot import is_there, sysroot
from tests.runners.peers import needed

HOST = ("/var/lib/dpkg/status", "/var/lib/apt/lists", "/var/cache/apt", "/var/lib/apt/extended_states")
LOADERS = {"aarch64": ("lib/ld-linux-aarch64.so.1", 183), "armv7": ("lib/ld-linux-armhf.so.3", 40)}
SMALL = ("libgcc-s1",)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def left(cache: Path) -> list[str]:
    """Every file in the cache but locks and apt's own lists."""
    files = [str(file.relative_to(cache)) for file in cache.rglob("*") if file.is_file()]
    return [name for name in files if not name.endswith("lock") and not name.startswith(("apt/armhf/", "apt/arm64/"))]


def host_state() -> list[tuple[str, int]]:
    places = [Path(name) for name in HOST]
    files = [file for place in places if place.exists() for file in (place, *place.rglob("*"))]
    return sorted((str(file), file.stat().st_mtime_ns) for file in files)


@pytest.mark.parametrize("architecture", LOADERS)
def test_packages_come_with_what_they_depend_on(architecture: str, cache: Path) -> None:
    before = host_state()
    root = needed(lambda: sysroot(architecture, SMALL))
    name, machine = LOADERS[architecture]
    header = (root / name).read_bytes()[:20]
    assert header[:4] == b"\x7fELF"
    assert int.from_bytes(header[18:20], "little") == machine
    assert [file.name for file in root.glob("lib/*-linux-gnu*/libgcc_s.so.1")] == ["libgcc_s.so.1"]
    assert is_there(architecture, SMALL)
    assert host_state() == before
    assert {name.split("/")[0] for name in left(cache)} == {"sysroots"}


def test_nothing_that_the_host_hooked_to_apt_is_run(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "apt.conf"
    hooks.write_text(
        "".join(
            f'{name} {{ "touch {tmp_path}/hooked"; }};\n'
            for name in ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "DPkg::Pre-Invoke")
        )
    )
    monkeypatch.setenv("APT_CONFIG", str(hooks))
    needed(lambda: sysroot("armv7", SMALL))
    assert not (tmp_path / "hooked").exists()


def test_a_package_that_there_is_not_is_named(cache: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get on this machine")
    for name in ("no-such-package-at-all", "--download-only"):
        with pytest.raises(DependencyError, match=f"Debian's {name} for armv7 cannot be fetched") as refused:
            sysroot("armv7", [name])
        assert "\n" not in str(refused.value)
    assert left(cache) == []


def test_a_network_that_refuses_is_told_and_the_next_attempt_goes_on(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("no apt-get on this machine")
    with monkeypatch.context() as offline:
        for name in ("http_proxy", "https_proxy"):
            offline.setenv(name, "http://127.0.0.1:9")
        with pytest.raises(DependencyError, match=r"for armv7 cannot be fetched: .*127\.0\.0\.1") as refused:
            sysroot("armv7", SMALL)
    assert "\n" not in str(refused.value)
    assert not is_there("armv7", SMALL)
    assert needed(lambda: sysroot("armv7", SMALL)).is_dir()


def test_a_machine_without_apt_is_told_what_to_do(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match=r"apt-get and dpkg-deb not found.*ssh"):
        sysroot("aarch64", SMALL)
    assert left(cache) == []
