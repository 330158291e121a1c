"""Files and folders are there whole or not at all, whatever stops the one who writes them."""

import errno
import itertools
import os
from pathlib import Path

import pytest
from interrupted import killed, refused, refused_beyond

from zoo import files
from zoo.errors import DataError


def folder_of(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (path / name).write_text(text)
    return path


def held(folder: Path) -> set[str]:
    """What the files of a folder hold, which is one thing where it is whole."""
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "c"]
    return {path.read_text() for path in folder.iterdir()}


def neither(a: Path, b: Path) -> bool:
    """A system that cannot exchange two names."""
    return False


@pytest.fixture(params=["exchange", "rename"])
def way(request, monkeypatch):
    """With what the system has, and without."""
    if request.param == "rename":
        monkeypatch.setattr(files, "_exchanged", neither)
    return request.param


def test_a_folder_is_replaced(way, tmp_path):
    folder = folder_of(tmp_path / "folder", "old")
    files.replace_folder(folder_of(tmp_path / "new", "new"), folder)
    assert held(folder) == {"new"}
    assert list(tmp_path.iterdir()) == [folder]
    other = tmp_path / "other"
    files.replace_folder(folder, other)
    assert list(tmp_path.iterdir()) == [other]


def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new(way, tmp_path):
    for step in itertools.count(1):
        folder = folder_of(tmp_path / str(step) / "folder", "old")
        new = folder_of(folder.with_name("new"), "new")
        stopped = killed(lambda new=new, folder=folder: files.replace_folder(new, folder), step)
        if way == "rename":
            assert folder.exists() or files.replaced(folder.parent) == [folder]
            files.restore(folder)
        assert held(folder) in ({"old"}, {"new"})
        # And who runs again gets on.
        files.replace_folder(folder_of(folder.with_name("newer"), "newer"), folder)
        assert held(folder) == {"newer"}
        assert files.replaced(folder.parent) == []
        if not stopped:
            break
    assert step > 3


def test_a_failure_at_any_moment_leaves_the_old_folder_or_the_new(way, tmp_path):
    for step in itertools.count(1):
        folder = folder_of(tmp_path / str(step) / "folder", "old")
        new = folder_of(folder.with_name("new"), "new")
        said = refused(lambda new=new, folder=folder: files.replace_folder(new, folder), step)
        files.restore(folder)
        assert held(folder) in ({"old"}, {"new"})
        if not said:
            break


def test_what_is_half_removed_is_not_taken_back(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchanged", neither)
    folder = folder_of(tmp_path / "folder", "old")
    new = folder_of(tmp_path / "new", "new")
    monkeypatch.setattr(files.shutil, "rmtree", lambda *args, **options: None)  # as if killed before it
    files.replace_folder(new, folder)
    monkeypatch.undo()
    files.shutil.rmtree(folder)
    files.restore(folder)
    assert not folder.exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    text = "new" * 100_000
    for size in (0, 1, 100_000):
        kinds, said = refused_beyond(lambda: files.write_atomically(path, text), size)
        assert "DataError" in kinds
        assert said == f"cannot write {path} (File too large): free disk space there, and run again."
    for step in itertools.count(1):
        stopped = killed(lambda: files.write_atomically(path, text), step)
        assert path.read_text() in ("old", text)
        if not stopped:
            break
        said = refused(lambda: files.write_atomically(path, "newer"), step)
        assert said is None or "free disk space" in said[1]
        assert path.read_text() in ("old", text)
    assert path.read_text() == text


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "link").symlink_to(mine)
    files.write_atomically(tmp_path / "link", "new")
    assert mine.read_text() == "mine"
    assert (tmp_path / "link").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free disk space there, and run again"),
        (errno.EDQUOT, "free disk space there, and run again"),
        (errno.EROFS, "make /some/folder writable, or choose another folder"),
        (errno.EACCES, "make /some/folder writable, or choose another folder"),
        (errno.ENOENT, "make the folder /some/folder first"),
        (errno.ENAMETOOLONG, "choose another name or another folder"),
    ],
)
def test_each_failure_has_its_remedy(number, remedy):
    with pytest.raises(DataError) as caught, files.writing("/some/folder/file"):
        raise OSError(number, os.strerror(number), "/some/folder/.file.x1")
    assert str(caught.value) == f"cannot write /some/folder/file ({os.strerror(number)}): {remedy}."
