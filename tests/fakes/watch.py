"""What Python code does to the machine while a test looks: files, programs, connections."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = (sys.prefix, sys.base_prefix, str(ROOT), str(ROOT.resolve()), "/dev/null", "/proc/", "/sys/")
"""What an import or a library's own question about the machine may open."""
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
READS = ("open", "os.listdir", "os.scandir")
NEVER = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
_seen: list[tuple[str, str]] | None = None


def _hook(event, arguments):
    if _seen is None or event not in {*CHANGES, *READS, *NEVER}:
        return
    for path in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
        if not isinstance(path, int):
            _seen.append((event, os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)))


sys.addaudithook(_hook)  # for good: Python takes none back


@contextmanager
def watched(*allowed):
    """Fails where anything outside of `allowed` folders is opened or changed, or a program or connection is begun."""
    global _seen
    _seen = []
    try:
        yield
    finally:
        seen, _seen = _seen, None
    folders = tuple(os.path.realpath(folder) for folder in allowed)
    for event, path in seen:
        assert event not in NEVER, (event, path)
        inside = os.path.realpath(path).startswith(folders) if folders else False
        assert inside or (event in READS and path.startswith(OWN)), (event, path)
