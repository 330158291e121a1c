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
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import DataError

_PACKED = 2**16  # bytes by which a packed file may exceed what it holds


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path`, by way of a file beside it: nobody ever sees half of it.

    Raises:
        DataError: it cannot be written.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent, delete=False) as file:
            try:
                file.write(data.encode() if isinstance(data, str) else data)
                file.close()
                os.chmod(file.name, 0o644)  # temporary files are private, data and checkpoints are not
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise DataError(f"cannot write {path} ({error}): free disk space there, and run again.") from None


def replace_folder(new: Path, folder: Path) -> None:
    """Put the folder `new`, a sibling, in the place of `folder`; a reader sees the old one or the new one."""
    if not folder.exists():
        new.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old-", dir=folder.parent))
    folder.rename(old / folder.name)
    try:
        new.rename(folder)
    except OSError:
        (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def data_root(root: str | Path | None = None) -> Path:
    """The folder of the data sets: the one given, else ZOO_DATA, else `zoo/data` in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "zoo" / "data"
    return Path(root or os.environ.get("ZOO_DATA") or cache).expanduser()


def present(path: Path) -> bool:
    """Whether `path`, or `path` with .gz appended, exists."""
    return path.exists() or _gz(path).exists()


def read_regular(path: str | Path, most: int) -> bytes:
    """All of a regular file of at most `most` bytes: a pipe or a device, in a file's place, may never end.

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
            return file.read(most)
    finally:
        os.close(handle)


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
            f"{path} is missing: allow the download, or set ZOO_DATA (or root) to the folder that has "
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
