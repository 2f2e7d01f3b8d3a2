"""An archive that the Linux kernel unpacks as its first root folder (cpio, newc, gzip)."""

import gzip
import stat
from collections.abc import Mapping
from pathlib import Path

Content = bytes | Path | str | None
"""Of an entry: a file's bytes, or the file or link it is copied from; the target of a link; None is a folder."""


def archive(entries: Mapping[str, tuple[int, Content]]) -> bytes:
    """The archive of these entries: by relative path, the permissions and the content; folders are added."""
    out = bytearray()
    known = {"."}
    for name, (permissions, content) in entries.items():
        for folder in reversed(Path(name).parents):
            if str(folder) not in known:
                known.add(str(folder))
                out += _entry(str(folder), stat.S_IFDIR | 0o755, b"")
        known.add(name)
        if content is None:
            out += _entry(name, stat.S_IFDIR | permissions, b"")
        elif isinstance(content, str):
            out += _entry(name, stat.S_IFLNK | 0o777, content.encode())
        else:
            data = content if isinstance(content, bytes) else content.read_bytes()
            out += _entry(name, stat.S_IFREG | permissions, data)
    out += _entry("TRAILER!!!", 0, b"")
    return gzip.compress(bytes(out), compresslevel=6, mtime=0)


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One file: a header of thirteen numbers in hexadecimal, the name, the content, each up to a multiple of four."""
    encoded = name.encode() + b"\0"
    links, owner, time, device = 1, 0, 0, 0
    numbers = (0, mode, owner, owner, links, time, len(data), device, device, device, device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    named = header + encoded
    return named + b"\0" * (-len(named) % 4) + data + b"\0" * (-len(data) % 4)
