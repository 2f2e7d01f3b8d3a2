"""The archive of a board's root, unpacked by another program."""

import gzip
import subprocess
from pathlib import Path

from edgekd.runners.cpio import archive
from edgekd.runners.sysroot import host_architecture, sysroot
from tests.runners.peers import needed


def test_another_program_unpacks_what_was_packed(tmp_path: Path) -> None:
    root = needed(lambda: sysroot(host_architecture(), ["busybox-static"]))
    busybox = next(file for file in (root / "bin" / "busybox", root / "usr" / "bin" / "busybox") if file.is_file())
    source = tmp_path / "source"
    contents = {f"deep/of/{size}": bytes(range(256))[:size] * 3 for size in range(6)}
    source.write_bytes(b"from a file")
    packed = archive(
        {
            **{name: (0o640, content) for name, content in contents.items()},
            "program": (0o755, source),
            "link": (0o777, "deep/of/5"),
            "empty": (0o700, None),
        }
    )
    place = tmp_path / "out"
    place.mkdir()
    done = subprocess.run([busybox, "cpio", "-i"], cwd=place, input=gzip.decompress(packed), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert {name: (place / name).read_bytes() for name in contents} == contents
    assert (place / "program").read_bytes() == b"from a file"
    assert (place / "link").readlink() == Path("deep/of/5")
    modes = {name: (place / name).stat().st_mode & 0o7777 for name in ("deep/of/0", "program", "empty", "deep")}
    assert modes == {"deep/of/0": 0o640, "program": 0o755, "empty": 0o700, "deep": 0o755}


def test_the_same_entries_give_the_same_archive() -> None:
    entries = {"a/b": (0o644, b"content"), "c": (0o777, "a/b")}
    assert archive(entries) == archive(dict(entries))
