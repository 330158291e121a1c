"""Files: found, checked, downloaded, and written whole or not at all; each failure is one sentence with its remedy."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from zoo.errors import DataError, one_line

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)

_PACKED = 2**16  # bytes by which a packed file may exceed what it holds


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path`, by way of a file beside it: nobody ever sees half of it.

    Where `path` is a link, the file takes the link's place, and what it led to stays as it is.

    Raises:
        DataError: it cannot be written.
    """
    check_place(path)
    with writing(path), tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
        try:
            file.write(data.encode() if isinstance(data, str) else data)
            file.close()
            os.chmod(file.name, 0o644)  # temporary files are private, data and checkpoints are not
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse to put a file in the place of what is none: a folder, a device, a pipe, or a link to an open one.

    Raises:
        DataError: with the remedy.
    """
    opened = os.path.islink(path) and os.readlink(path).startswith(("/proc/", "fd/"))  # as /dev/stdout
    if opened or (os.path.exists(path) and not os.path.isfile(path)):
        raise unwritable(path, OSError(errno.EINVAL, "there is a folder, a device or a pipe"))


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Whatever keeps `path`, a file or a folder, from being written is one sentence with the remedy.

    Raises:
        DataError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from None


def unwritable(path: str | os.PathLike[str], error: OSError) -> DataError:
    """What to say of a file or a folder that cannot be written: which, why, and what helps."""
    path = os.fspath(path)
    if error.errno in FULL:
        remedy = "free disk space there, and run again"
    elif error.errno in _FORBIDDEN:
        remedy = f"make {os.path.dirname(path) or 'this folder'} writable, or choose another folder"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        remedy = f"make the folder {os.path.dirname(path)} first"
    else:
        remedy = "choose another name or another folder"
    return DataError(f"cannot write {path} ({error.strerror or one_line(error)}): {remedy}.")


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, beside `folder`, in whose place it is put in the end; an error before leaves all as it was.

    Raises:
        DataError: it cannot be written.
    """
    restore(folder)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
        try:
            new.chmod(0o755)
            yield new
            replace_folder(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new`, a sibling, in the place of `folder`, which it need not have.

    At every moment the old one or the new one is there. Where the system cannot exchange two names in one step there
    is a moment at which neither is, and the old one lies beside: from there `restore` takes it back.
    """
    if not os.path.lexists(folder):
        new.rename(folder)
        return
    if _exchanged(new, folder):
        shutil.rmtree(new, ignore_errors=True)
        return
    backup = _backup(folder)
    _discard(backup)  # left by a process that was killed when the new one was in its place already
    folder.rename(backup)
    try:
        new.rename(folder)
    except OSError:
        backup.rename(folder)
        raise
    _discard(backup)


def restore(folder: Path) -> None:
    """Take back what `replace_folder` was about to replace when it was killed; nothing to do nearly always."""
    backup = _backup(folder)
    if not os.path.lexists(folder) and backup.is_dir():
        with suppress(OSError):  # another process has done it, or nobody may
            backup.rename(folder)


def replaced(folder: Path) -> list[Path]:
    """The folders in `folder` that `restore` might take back."""
    ends = _backup(Path("x")).name.partition("x")
    names = [path.name for path in folder.iterdir() if path.name.startswith(ends[0]) and path.name.endswith(ends[2])]
    return [folder / name.removeprefix(ends[0]).removesuffix(ends[2]) for name in names]


def _backup(folder: Path) -> Path:
    """Where the old folder lies for a moment: always the same, so that it is found again."""
    return folder.parent / f".{folder.name}.replaced"


def _discard(backup: Path) -> None:
    """Remove a backup, under another name: one that is half removed must not be taken back."""
    if os.path.lexists(backup):
        rubbish = Path(tempfile.mkdtemp(prefix=f"{backup.name}-", dir=backup.parent))
        backup.rename(rubbish / backup.name)
        shutil.rmtree(rubbish, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Exchange two names in one step: by Linux's renameat2 or macOS's renamex_np; False where there is neither."""
    import ctypes

    library = ctypes.CDLL(None) if os.name == "posix" else None
    names = os.fsencode(a), os.fsencode(b)
    if hasattr(library, "renameat2"):
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        return library.renameat2(here, names[0], here, names[1], exchange) == 0
    if hasattr(library, "renamex_np"):
        return library.renamex_np(*names, 2) == 0  # RENAME_SWAP
    return False


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the data sets: the one given, else ZOO_DATA, else `zoo/data` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "zoo" / "data"
    return Path(root or os.environ.get("ZOO_DATA") or cache).expanduser()


def present(path: Path) -> bool:
    """Whether `path`, or `path` with .gz appended, exists."""
    return path.exists() or _gz(path).exists()


@contextmanager
def opened_regular(path: str | Path, most: int) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file of at most `most` bytes, open, and how many it has: a pipe or a device, in a file's place, may
    never end.

    Raises:
        OSError: it is absent, no regular file, larger, or cannot be read; `strerror` says which.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "its name holds a NUL byte", str(path))
    # Without O_NONBLOCK to open a pipe waits for its writer. What is opened is what is looked at.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"its {status.st_size:,} bytes are more than {most:,}", str(path))
        with open(handle, "rb", closefd=False) as file:
            yield file, status.st_size
    finally:
        os.close(handle)


def read_regular(path: str | Path, most: int) -> bytes:
    """All of a regular file of at most `most` bytes.

    Raises:
        OSError: as `opened_regular`.
    """
    with opened_regular(path, most) as (file, _):
        return file.read(most)


def read(path: Path, size: int, sha256: str, header: bytes = b"") -> bytes:
    """Return the contents of `path`, or else of the .gz beside it, checked.

    Args:
        path: the file, unpacked.
        size: its length in bytes.
        sha256: its checksum, in hex.
        header: the bytes it begins with.

    Raises:
        DataError: it is absent, cannot be read or differs from the official file.
    """
    import gzip
    import zlib

    source = path if path.exists() else _gz(path)
    remedy = f"delete it to have it downloaded anew, or put the official {path.name} there"
    try:
        # What is packed is no larger than what it holds, but for some bytes, and gives one byte too much at most.
        data = read_regular(source, size + _PACKED)
        if source != path:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(size + 1)
    except FileNotFoundError:
        raise DataError(
            f"{path.absolute()} is missing: allow the download, or set ZOO_DATA (or root) to the folder that has "
            f"{path.parent.name}."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{source} cannot be read ({reason}): {remedy}.") from None
    if len(data) != size:
        many = f"{len(data):,}" if len(data) < size or source == path else f"more than {size:,}"
        raise DataError(f"{source} has {many} bytes instead of {size:,}: {remedy}.")
    if not data.startswith(header):
        raise DataError(f"{source} has the wrong kind of content (its first bytes differ): {remedy}.")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(f"{source} is damaged (its sha256 differs): {remedy}.")
    return data


def fetch(urls: Iterable[str], md5: str, folder: Path) -> Path:
    """Download a file, from the first of `urls` that has the right one, into `folder`; return its path.

    Raises:
        DataError: none of `urls` gave a file with this md5.
    """
    from http.client import HTTPException

    failures = []
    for url in urls:
        path = folder / url.rpartition("/")[2]
        try:
            digest = _download(url, path)
        except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
            if getattr(error, "errno", None) in FULL:  # with which no other source helps
                raise unwritable(path, error) from None
            failures.append(f"{url}: {error}")
            continue
        if digest == md5:
            return path
        failures.append(f"{url}: its md5 differs, so the transfer was cut or the file replaced")
    raise DataError(
        f"cannot download ({'; '.join(failures)}): check the network and run again, or set ZOO_DATA (or "
        f"root) to a folder that has the official files."
    )


def _download(url: str, path: Path) -> str:
    """Write what `url` gives to `path` and return its md5."""
    import urllib.request

    from tqdm import tqdm

    md5 = hashlib.md5(usedforsecurity=False)
    request = urllib.request.Request(url, headers={"User-Agent": "zoo"})
    with urllib.request.urlopen(request, timeout=30) as response, path.open("wb") as file:
        length = int(response.headers.get("Content-Length") or 0) or None
        # disable=None: a bar on a terminal, nothing in a pipe.
        with tqdm(desc=path.name, total=length, unit="B", unit_scale=True, disable=None) as bar:
            while chunk := response.read(1 << 20):
                file.write(chunk)
                md5.update(chunk)
                bar.update(len(chunk))
    return md5.hexdigest()


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Make `folder` and give a temporary folder inside it, to prepare files in, that is removed afterwards.

    Raises:
        DataError: `folder` cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as error:
        raise DataError(f"cannot write to {folder} ({error}): set ZOO_DATA (or root) to another folder.") from None
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _gz(path: Path) -> Path:
    return path.with_name(path.name + ".gz")
