"""Where results go: a folder, or a bucket that fsspec knows. What is written is there whole, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ..errors import OutputError, SettingsError
from ..pictures.writing import TEMPORARY, atomic_write, temporaries

LOCK = "lock"
SPARE_BYTES = 2**20


class Storage(Protocol):
    """Files by their names relative to a root, with / between folders."""

    def read(self, name: str) -> bytes | None:
        """None where there is no such file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Whole or not at all, in the place of an older one. Raises OutputError."""
        ...

    def exists(self, name: str) -> bool: ...

    def delete(self, name: str) -> None: ...

    def names(self, folder: str) -> list[str]:
        """Of what is directly inside, each with its folder, sorted; none where there is no such folder."""
        ...

    def sweep(self, names: Iterable[str], folders: Iterable[str]) -> None:
        """Remove what a killed run has left of writing these files, and any files inside these folders."""
        ...

    def shown(self, name: str) -> str:
        """As people would name the file."""
        ...

    def require_room(self, size: int) -> None:
        """Raises OutputError where `size` bytes will not fit."""
        ...

    @contextmanager
    def locked(self, folder: str) -> Iterator[bool]:
        """One run at a time; False where this cannot be had. Raises OutputError while another run holds it."""
        ...


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        try:
            return (self.root / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise OutputError(f"{self.root / name}: cannot be read ({error.strerror or error}).") from error

    def write(self, name: str, data: bytes) -> None:
        atomic_write(self.root / name, lambda file: file.write(data))

    def exists(self, name: str) -> bool:
        return os.path.lexists(self.root / name)

    def delete(self, name: str) -> None:
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.root / name}: cannot be removed ({error.strerror or error}).") from error

    def names(self, folder: str) -> list[str]:
        try:
            found = sorted(os.listdir(self.root / folder))  # noqa: PTH208  # names only
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{folder}/{name}" if folder else name for name in found if not name.endswith(TEMPORARY)]

    def sweep(self, names: Iterable[str], folders: Iterable[str]) -> None:
        left = [path for name in names for path in temporaries(self.root / name)]
        for path in [*left, *(path for folder in folders for path in (self.root / folder).glob(f".*{TEMPORARY}"))]:
            path.unlink(missing_ok=True)

    def shown(self, name: str) -> str:
        return str(self.root / name)

    def require_room(self, size: int) -> None:
        existing = next(folder for folder in (self.root, *self.root.absolute().parents) if folder.exists())
        if (free := shutil.disk_usage(existing).free) < size + SPARE_BYTES:
            raise OutputError(f"{self.root}: {free} bytes are free, and a picture needs more; free some space.")

    @contextmanager
    def locked(self, folder: str) -> Iterator[bool]:
        from filelock import FileLock, Timeout

        path = self.root / folder / LOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, blocking=False)
            lock.acquire()
        except Timeout as error:
            raise OutputError(
                f"{self.root}: another run is at work there. Wait for it, or choose another --out."
            ) from error
        except NotImplementedError:  # file systems of some clouds
            yield False
            return
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error}).") from error
        try:
            yield True
        finally:
            lock.release()


class Bucket:
    """An object store: what is put there appears whole. Needs fsspec and its package for the protocol."""

    def __init__(self, url: str) -> None:
        if re.search(r"(^|::)(file|local)://", url):
            raise SettingsError(
                f"--out {url}: expected the path alone for a folder of this machine, without file:// or local://."
            )
        try:
            import fsspec

            self.files, self.root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"--out {url}: {error}. Install fsspec and its package for this protocol.") from error
        self.url = url.rstrip("/")

    def read(self, name: str) -> bytes | None:
        try:
            return self.files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        except Exception as error:  # each protocol raises its own
            raise _refused(self.shown(name), error) from error

    def write(self, name: str, data: bytes) -> None:
        try:
            self.files.pipe_file(self._path(name), data)
        except Exception as error:
            raise _refused(self.shown(name), error) from error

    def exists(self, name: str) -> bool:
        try:
            return self.files.exists(self._path(name))
        except Exception as error:
            raise _refused(self.shown(name), error) from error

    def delete(self, name: str) -> None:
        try:
            self.files.rm_file(self._path(name))
        except FileNotFoundError:
            pass
        except Exception as error:
            raise _refused(self.shown(name), error) from error

    def names(self, folder: str) -> list[str]:
        try:
            found: list[Any] = self.files.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise _refused(self.shown(folder), error) from error
        return sorted(f"{folder}/{str(path).rstrip('/').rpartition('/')[2]}".lstrip("/") for path in found)

    def sweep(self, names: Iterable[str], folders: Iterable[str]) -> None:
        del names, folders  # an object appears whole

    def shown(self, name: str) -> str:
        return f"{self.url}/{name}"

    def require_room(self, size: int) -> None:
        del size

    @contextmanager
    def locked(self, folder: str) -> Iterator[bool]:
        del folder
        yield False

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"


def _refused(shown: str, error: Exception) -> OutputError:
    return OutputError(f"{shown}: the storage refused ({type(error).__name__}: {error}).")
