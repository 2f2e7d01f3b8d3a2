"""A device that every tool takes for a Linux board: a real ssh server whose sessions run in an emulated ARM root."""

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekd.cache import cache_dir
from edgekd.runners import emulator
from edgekd.runners.emulator import EmulatorSettings
from tests.runners.peers import lay_tree, needed
from tests.runners.sshd import Keys, serve

SETTINGS = EmulatorSettings("cortex-a72", ("busybox", "openssh-sftp-server"))
PROGRAMS = ("sh", "env", "uname", "df")
BARE = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "/sys/devices/system/cpu/possible": "0-1\n",
    "/sys/devices/system/cpu/present": "0-1\n",
}
"""What a board has without any sensor."""
PROFILE = """
title = "A board behind ssh"
runner = "ssh"
timing = "emulated"
architecture = "aarch64"

[ssh]
host = "127.0.0.1"
port = {port}
user = "{user}"
identity = "{identity}"
known_hosts = "{known_hosts}"
"""
# Every session has namespaces of its own, and in them a list of emulators of its own (Linux 6.7); before that, the
# machine's, if qemu-user-static was installed on it.
MAGIC = r":qemu:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
ENTER = """\
#!/bin/sh
exec unshare --user --map-root-user --mount sh -c '
root=$1
formats=/proc/sys/fs/binfmt_misc
if mount -t binfmt_misc none $formats; then
    printf %s "$2" > $formats/register || exit 97
elif ! grep -qs enabled $formats/qemu-aarch64; then
    exit 97
fi
mount --rbind /dev $root/dev &&
mount --rbind /proc $root/proc &&
mount --bind $root/etc/cpuinfo $root/proc/cpuinfo &&
exec chroot $root /bin/env -i PATH=/bin HOME=/root QEMU_CPU={cpu} sh -c "cd && $SSH_ORIGINAL_COMMAND"
' sh {root} {format}
"""


@dataclass(frozen=True)
class ArmRoot:
    """A device. place: its root folder, seen from here; profile: a user's file that describes it."""

    place: Path
    profile: Path

    @property
    def home(self) -> Path:
        """edgekd's own folder on the device."""
        return self.place / "root" / ".edgekd"

    def held(self) -> list[Path]:
        """The folders of sessions."""
        return [folder for folder in (self.home / "run").glob("*") if folder.is_dir()]


@contextlib.contextmanager
def arm_root(folder: Path, keys: Keys, tree: Mapping[str, str] | None = None) -> Iterator[ArmRoot]:
    """Serve a new device in `folder`; tree: its sensors, by their path. The test is skipped where that cannot be."""
    needed(lambda: emulator.prepare(SETTINGS))
    place, enter, profile = folder / "root", folder / "enter", folder / "board.toml"
    shutil.copytree(emulator.root(SETTINGS), place, symlinks=True, ignore=shutil.ignore_patterns("share"))
    for program in PROGRAMS:
        (place / "bin" / program).symlink_to("busybox")
    for name in ("dev", "root"):
        (place / name).mkdir()
    shutil.copyfile(place / "proc" / "cpuinfo", place / "etc" / "cpuinfo")
    lay_tree(place, {**BARE, **(tree or {})})
    registration = f"{MAGIC}{MASK}:{cache_dir() / 'tools' / 'qemu-user' / 'qemu-aarch64'}:F"
    enter.write_text(ENTER.format(cpu=SETTINGS.cpu, root=shlex.quote(str(place)), format=shlex.quote(registration)))
    enter.chmod(0o755)
    _require(enter)
    with serve(folder / "server", keys, force=str(enter)) as server:
        told = {"port": server.port, "user": server.user, "identity": keys.user, "known_hosts": server.known_hosts}
        profile.write_text(PROFILE.format(**told))
        yield ArmRoot(place, profile)


def _require(enter: Path) -> None:
    """Skip the test, with the reason, where this kernel lets nobody enter."""
    tried = subprocess.run(
        [enter], env={**os.environ, "SSH_ORIGINAL_COMMAND": "uname -m"}, capture_output=True, text=True, check=False
    )
    if tried.stdout != "aarch64\n":
        pytest.skip(
            f"programs of another processor cannot be made to run here ({tried.stderr.strip() or tried.returncode}); "
            "it takes Linux 6.7 with user namespaces, or: scripts/system-packages qemu-user-static"
        )
