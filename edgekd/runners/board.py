"""A whole ARM board in software (qemu-system): Debian's kernel, a small root in memory, reached by ssh.

It is started for a connection and ends with it, whatever happens to the process that started it. With `icount` its
clock counts instructions, so that a time repeats from boot to boot; it is no real device's.
"""

import contextlib
import lzma
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekd.cache import cache_dir, made
from edgekd.config import nearest
from edgekd.device import DeviceProfile
from edgekd.errors import DependencyError, DeviceError, UsageError
from edgekd.runners.connection import Connection
from edgekd.runners.cpio import Content, archive
from edgekd.runners.streams import printable
from edgekd.runners.sysroot import entry, host_architecture, is_there, sysroot, unpacked

ARCHITECTURE = "aarch64"
CPUS = ("cortex-a53", "cortex-a72")
MEMORY = 1024
"""MiB; the board's files are in it too."""
EMULATOR_PACKAGES = ("qemu-system-arm",)
KERNEL_PACKAGES = ("linux-image-cloud-arm64",)
ROOT_PACKAGES = ("busybox-static", "libstdc++6", "openssh-server")
MODULES = (
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_net",
)
"""What the network card needs, in the order of loading; a kernel that has one built in does not bring it."""
READY = "edgekd board is ready"
BOOT_SECONDS = 180.0
LOOK_SECONDS = 0.05
ATTEMPTS = 5
HOST, USER = "127.0.0.1", "root"

INIT = f"""\
#!/bin/sh
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
busybox mount -t devtmpfs devtmpfs /dev
busybox mkdir -p /dev/pts
busybox mount -t devpts devpts /dev/pts
busybox --install -s /bin
for module in {" ".join(MODULES)}; do
    [ ! -e /modules/$module.ko ] || insmod /modules/$module.ko
done
ip link set lo up
ip link set eth0 up
ip address add 10.0.2.15/24 dev eth0
ip route add default via 10.0.2.2
hostname board
/usr/sbin/sshd
# It listens a moment after it has gone to the background.
until grep -q ":0016 00000000:0000 0A" /proc/net/tcp; do sleep 0.1; done
echo {READY}
while :; do sleep 1000; done
"""

SSHD = """\
ListenAddress 0.0.0.0
HostKey /etc/ssh/host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
"""

# Ends the board when it ends, and also when whoever holds its input is gone.
GUARD = """\
exec 3<&0
"$@" </dev/null 3<&- &
board=$!
{ read -r _ <&3; kill -KILL $board 2>/dev/null; } &
watch=$!
exec 3<&-
wait $board
kill $watch 2>/dev/null
"""


@dataclass(frozen=True)
class BoardSettings:
    """The board that is emulated.

    cpu: one of CPUS. icount: its clock counts the instructions of its only core, 2 to this power nanoseconds each;
    None: two cores, and the clock of this machine.
    """

    cpu: str
    icount: int | None = None


@dataclass(frozen=True)
class Board:
    """A board that runs, and what is needed to reach it by ssh on 127.0.0.1."""

    port: int
    identity: Path
    known_hosts: Path


def settings_of(profile: DeviceProfile) -> BoardSettings:
    """The settings in a profile; raises UsageError for what this board cannot be."""
    assert profile.board is not None
    cpu = profile.board.cpu
    if cpu not in CPUS:
        raise UsageError(f"{profile.title}: board.cpu: '{cpu}' is not known; {nearest(cpu, CPUS)}")
    if profile.architecture != ARCHITECTURE:
        raise UsageError(f"{profile.title}: architecture: a board is {ARCHITECTURE}, not {profile.architecture}")
    if profile.board.packages:
        raise UsageError(f"{profile.title}: board.packages: a board's root is fixed; remove the key")
    return BoardSettings(cpu, profile.board.icount)


@contextmanager
def connect(profile: DeviceProfile) -> Iterator[Connection]:
    """Boot the board and reach it; raises as `running` does, and DeviceError where ssh does not get in."""
    from edgekd.runners.ssh import connect_to

    with running(profile.title, settings_of(profile)) as board:
        with connect_to(HOST, board.port, USER, board.identity, board.known_hosts, ARCHITECTURE) as connection:
            yield connection


def prepare() -> None:
    """Fetch the emulator and the kernel and make the board's root, where they are not there yet.

    Raises DependencyError.
    """
    sysroot(host_architecture(), EMULATOR_PACKAGES)
    made(_home(), _make)


def is_prepared() -> bool:
    return is_there(host_architecture(), EMULATOR_PACKAGES) and _home().is_dir()


@contextmanager
def running(name: str, settings: BoardSettings) -> Iterator[Board]:
    """Boot a board; it is gone afterwards.

    Raises DependencyError where it is not set up, DeviceError, with what it said last, where it does not boot.
    """
    if not is_prepared():
        raise DependencyError(f"{name}: not set up yet; run: edgekd devices setup, with the device's name")
    with tempfile.TemporaryDirectory(prefix="edgekd-board-") as place:
        folder = Path(place)
        for _ in range(ATTEMPTS):
            port = _free_port()
            with _guarded(_command(settings, port, folder / "console"), folder / "said") as guard:
                if not _wait(name, guard, folder):
                    continue
                key = (_home() / "host_key.pub").read_text()
                (folder / "known_hosts").write_text(f"[{HOST}]:{port} {key}")
                yield Board(port, _home() / "user_key", folder / "known_hosts")
                return
    raise DeviceError(f"{name}: no free port was found on {HOST} in {ATTEMPTS} attempts; try again")


@contextmanager
def _guarded(command: list[str], said: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that lives as long as the block, and no longer than this process."""
    with said.open("wb") as stream:
        guard = subprocess.Popen(
            ["sh", "-c", GUARD, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    assert guard.stdin is not None
    try:
        yield guard
    finally:
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.close()
        guard.wait()


def _wait(name: str, guard: "subprocess.Popen[bytes]", folder: Path) -> bool:
    """Whether it booted; False if another program took its port meanwhile."""
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline:
        if READY in _text(folder / "console"):
            return True
        if guard.poll() is not None:
            said = _text(folder / "said") or _text(folder / "console")
            if "host forwarding" in said:
                return False
            raise DeviceError(f"{name}: the board ended before it was ready: {_last(said)}")
        time.sleep(LOOK_SECONDS)
    last = _last(_text(folder / "console"))
    raise DeviceError(f"{name}: the board was not ready within {BOOT_SECONDS:.0f} s; it said last: {last}")


def _command(settings: BoardSettings, port: int, console: Path) -> list[str]:
    tools = sysroot(host_architecture(), EMULATOR_PACKAGES)
    loader = next(tools.glob("lib/*-linux-gnu*/ld-linux*.so.*"))
    folders = [str(tools / place / loader.parent.name) for place in ("lib", "usr/lib")]
    # Its own loader and C library: it runs whatever release this machine has.
    command = [str(loader), "--library-path", ":".join(folders), str(tools / "usr" / "bin" / "qemu-system-aarch64")]
    command += ["-L", str(tools / "usr" / "share" / "qemu"), "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-machine", "virt", "-cpu", settings.cpu, "-m", str(MEMORY)]
    command += ["-kernel", str(_home() / "kernel"), "-initrd", str(_home() / "root.gz")]
    command += ["-append", "console=ttyAMA0 quiet panic=-1 nokaslr", "-serial", f"file:{console}"]
    command += ["-netdev", f"user,id=net,restrict=on,hostfwd=tcp:{HOST}:{port}-:22"]
    command += ["-device", "virtio-net-pci,netdev=net,romfile="]
    if settings.icount is None:
        return [*command, "-smp", "2"]
    return [*command, "-smp", "1", "-icount", f"shift={settings.icount},sleep=off"]


def _home() -> Path:
    return cache_dir() / "boards" / entry(ARCHITECTURE, (*KERNEL_PACKAGES, *ROOT_PACKAGES, INIT, SSHD))


def _make(folder: Path) -> None:
    """Kernel, root and keys: the board's own, which is known in advance, and that of its user."""
    host_line, host_key = _key_pair()
    user_line, user_key = _key_pair()
    folder.mkdir(mode=0o700)
    (folder / "host_key.pub").write_text(f"{host_line}\n")
    (folder / "user_key").write_bytes(user_key)
    (folder / "user_key").chmod(0o600)
    entries: dict[str, tuple[int, Content]] = dict.fromkeys(("proc", "sys", "dev", "run/sshd"), (0o755, None))
    entries |= {
        "init": (0o755, INIT.encode()),
        "tmp": (0o1777, None),
        "etc/passwd": (0o644, f"{USER}:*:0:0::/root:/bin/sh\nsshd:*:100:100::/run/sshd:/bin/false\n".encode()),
        "etc/group": (0o644, f"{USER}:*:0:\nsshd:*:100:\n".encode()),
        "etc/ssh/sshd_config": (0o644, SSHD.encode()),
        "etc/ssh/host_key": (0o600, host_key),
        "root": (0o700, None),
        "root/.ssh": (0o700, None),
        "root/.ssh/authorized_keys": (0o600, f"{user_line}\n".encode()),
    }
    with unpacked(ARCHITECTURE, KERNEL_PACKAGES) as kernel:
        shutil.copyfile(next(kernel.glob("boot/vmlinuz-*")), folder / "kernel")
        entries |= {f"modules/{name}.ko": (0o644, content) for name, content in _modules(kernel)}
    with unpacked(ARCHITECTURE, ROOT_PACKAGES) as root:
        (folder / "root.gz").write_bytes(archive(entries | _programs(root)))


def _modules(kernel: Path) -> Iterator[tuple[str, bytes]]:
    for name in MODULES:
        for file in sorted(kernel.rglob(f"{name}.ko*"))[:1]:
            content = file.read_bytes()
            yield name, lzma.decompress(content) if file.suffix == ".xz" else content


def _programs(root: Path) -> dict[str, tuple[int, Content]]:
    busybox = next(file for file in (root / "bin" / "busybox", root / "usr" / "bin" / "busybox") if file.is_file())
    entries: dict[str, tuple[int, Content]] = {"bin/busybox": (0o755, busybox), "bin/sh": (0o777, "busybox")}
    entries["usr/sbin/sshd"] = (0o755, root / "usr" / "sbin" / "sshd")
    for file in sorted((*root.glob("lib/*-linux-gnu/*.so*"), *root.glob("usr/lib/*-linux-gnu/*.so*"))):
        name = f"lib/{file.name}"
        entries[name] = (0o777, str(file.readlink())) if file.is_symlink() else (0o755, file)
    return entries


def _key_pair() -> tuple[str, bytes]:
    """A new Ed25519 key, as OpenSSH writes it: its public line, and its private file."""
    try:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
    except ImportError as error:
        raise DependencyError("not installed: cryptography; run: pip install 'edgekd[devices]'") from error
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return public.decode(), key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    return port


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(lines[-1]) if lines else "nothing"
