"""`Table`: files of numbers become splits, and what is no such file is refused in one sentence."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch

from zoo.data.table import Table
from zoo.errors import DataError
from zoo.spec import DataSpec

BITS = np.random.RandomState(0).randint(0, 2, (23, 5))


def save(path, table, delimiter=","):
    if path.suffix == ".npy":
        np.save(path, table)
    else:
        np.savetxt(path, table, delimiter=delimiter, fmt="%.9g")
    return str(path)


@pytest.fixture
def table(tmp_path):
    """A table of the rows given, by default binary, and of tests with as many columns."""

    def make(train=BITS, test=None, name="train.npy", **arguments) -> Table:
        test = np.asarray(train)[:3] if test is None else test
        files = {"train": save(tmp_path / name, train), "test": save(tmp_path / "test.csv", test)}
        return Table(**{**files, "batch_size": 4, **arguments})

    return make


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".txt", " "), (".tsv", "\t"), (".csv", ";")])
@pytest.mark.parametrize("said", [True, False])
def test_text_and_npy_give_the_same_rows(tmp_path, suffix, delimiter, said):
    path = tmp_path / f"rows{suffix}"
    save(path, BITS, delimiter)
    data = Table(str(path), save(tmp_path / "rows.npy", BITS), delimiter=delimiter if said else None)
    data.setup()
    rows = torch.cat([data.train[0], data.val[0]])
    assert rows.dtype == data.test[0].dtype == torch.uint8
    assert torch.equal(rows, torch.from_numpy(BITS).to(torch.uint8))
    assert torch.equal(rows, data.test[0])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("0 1\n1 1", [[0, 1], [1, 1]]),
        ("  0   1\n\n1 1  \r\n", [[0, 1], [1, 1]]),
        ("\ufeff0,1\n", [[0, 1]]),
        ("1\n0\n", [[1], [0]]),
        ("0.0, 1e0\n", [[0, 1]]),
    ],
)
def test_layouts_of_text(tmp_path, text, rows):
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    data = Table("absent.npy", "t.txt", root=str(tmp_path))
    data.setup("test")
    assert data.test[0].tolist() == rows


@pytest.mark.parametrize(
    ("levels", "values", "dtype"),
    [
        (2, [[0, 1], [1, 1]], torch.uint8),
        (256, [[0, 255]] * 2, torch.uint8),
        (257, [[0, 256]] * 2, torch.int64),
        (None, [[-1.5, 1e30], [0, 1]], torch.float32),
        (None, [[1, 2], [3, 4]], torch.float32),
    ],
)
@pytest.mark.parametrize("name", ["train.npy", "train.csv"])
def test_levels_say_which_numbers_a_batch_has(table, levels, values, dtype, name):
    data = table(values, name=name, levels=levels, batch_size=1, delimiter=",")
    data.setup()
    x, label, condition, index = next(iter(data.train_dataloader()))
    assert (x.dtype, label, condition, index.tolist()) == (dtype, None, None, [0])
    assert torch.equal(data.train[0], torch.tensor(values[:1], dtype=dtype))
    assert data.spec == DataSpec((2,), levels, 0)
    data.spec.check(x)


def test_booleans_are_binary(table):
    data = table(BITS.astype(bool))
    data.setup("fit")
    assert data.train[0].dtype == torch.uint8


def test_the_last_rows_are_held_out_or_a_file_is_read(table, tmp_path):
    for validation, sizes in ((None, (21, 2)), (6, (17, 6)), (save(tmp_path / "val.txt", BITS[:4], " "), (23, 4))):
        data = table(validation=validation)
        data.setup("fit")
        assert (len(data.train[0]), len(data.val[0])) == sizes
        assert not hasattr(data, "test")
    assert torch.equal(data.val[0], data.train[0][:4])


def test_loaders_go_through_all_rows(table):
    data = table(validation=3, eval_batch_size=2)
    data.setup()
    assert [len(x) for x, *_ in data.train_dataloader()] == [4] * 5
    assert torch.equal(torch.cat([x for x, *_ in data.val_dataloader()]), data.val[0])
    assert torch.equal(torch.cat([x for x, *_ in data.test_dataloader()]), data.test[0])


def test_the_spec_is_known_before_setup_and_needs_one_file(table, tmp_path):
    assert table().spec == DataSpec((5,), 2, 0)
    (tmp_path / "test.csv").unlink()
    data = Table("train.npy", "test.csv", root=str(tmp_path))
    assert data.spec == DataSpec((5,), 2, 0)
    data.setup("fit")
    with pytest.raises(DataError, match=r"test\.csv is no file"):
        data.setup("test")


def test_config_names_files_without_folders_and_finds_them_in_a_root(table, tmp_path):
    for validation in (None, 5, save(tmp_path / "val.npy", BITS)):
        data = table(validation=validation)
        config = json.loads(json.dumps(data.config))
        assert config["class_path"] == "zoo.data.Table"
        assert str(tmp_path) not in json.dumps(config)
        again = Table(**config["init_args"], root=str(tmp_path))
        for one in (data, again):
            one.setup()
        assert torch.equal(data.train[0], again.train[0])
        assert torch.equal(data.val[0], again.val[0])
        assert (data.spec, data.protocol) == (again.spec, again.protocol)


# -- refusals ------------------------------------------------------------------------------------------------


def npy(array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Exploit:
    """Leaves a mark where it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.npy", None, "is no file: put the table there"),
        ("t.xlsx", b"1,2", "unknown format: save it as .npy"),
        ("t.csv", b"", "is empty: it needs at least one row"),
        ("t.csv", b" \n\n", "is empty"),
        ("t.npy", b"", "is no array of numbers"),
        ("t.npy", npy(np.zeros((0, 3))), "is empty"),
        ("t.npy", npy(np.zeros((3, 0))), "is empty"),
        ("t.npy", b"0,1\n1,0\n", "is no array of numbers"),
        ("t.npy", npy(np.zeros((9, 9)))[:200], "is no array of numbers"),
        ("t.npy", npy(np.array([[Exploit()]], dtype=object)), "is no array of numbers"),
        ("t.npy", pickle.dumps(Exploit()), "is no array of numbers"),
        ("t.npy", npy(np.array([["a"]])), "is not numeric"),
        ("t.npy", npy(np.zeros((2, 2), complex)), "is not numeric"),
        ("t.npy", npy(np.zeros((2, 2, 2))), r"has shape \(2, 2, 2\): save a table"),
        ("t.npy", npy(np.zeros(2)), r"has shape \(2,\)"),
        ("t.csv", b"a,0\n0,1\n", "line 1, column 1, has 'a', which is not numeric: leave out columns of text"),
        ("t.csv", b"0,1\n\n0,\n", "line 3, column 2, is empty, not numeric: fill in"),
        ("t.txt", b"0|1\n", r"line 1, column 1, has '0\|1', .* say delimiter where it is not ' '"),
        ("t.csv", b"0,1\n0,1,1\n", "line 2, has 3 numbers, but the first has 2"),
        ("t.txt", b"0 1\n0\n", "line 2, has 1 numbers, but the first has 2"),
        ("t.csv", b"\xff\xfe0\x00", "is no text"),
        ("t.csv", b"0,1\n0,nan\n", "row 2, column 2, has the value nan"),
        ("t.csv", b"0,1\n2,1\n", "row 2, column 1, has the value 2.0: with 2 levels values are integers 0..1"),
        ("t.npy", npy(np.array([[0, -1]])), "row 1, column 2, has the value -1"),
        ("t.npy", npy(np.array([[0.5]])), "has the value 0.5: with 2 levels"),
    ],
)
def test_a_bad_file_is_named_with_the_remedy(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    data = Table(name, name, root=str(tmp_path))
    with pytest.raises(DataError, match=sentence) as caught:
        data.setup("fit")
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_continuous_numbers_are_finite(table, value):
    with pytest.raises(DataError, match=r"row 2, column 1, has the value .*: replace or leave out"):
        table([[0.0, 1.0], [value, 0.0]], levels=None).setup("fit")


def test_splits_have_the_same_columns(table, tmp_path):
    data = table(test=BITS[:, :4])
    data.setup("fit")
    with pytest.raises(DataError, match=r"test\.csv has 4 columns, but .*train\.npy has 5: give all splits the same"):
        data.setup("test")
    with pytest.raises(DataError, match=r"val\.npy has 2 columns, but .*train\.npy has 5"):
        table(validation=save(tmp_path / "val.npy", BITS[:, :2])).setup("fit")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"validation": 23}, "23 training items, of which 23 cannot be held out for validation: choose from 1 to 22"),
        ({"validation": 0}, "of which 0 cannot be held out"),
        ({"levels": 1}, "levels must be at least 2, or null for continuous numbers, not 1"),
        ({"delimiter": "::"}, "delimiter must be one character, or null to guess it, not '::'"),
        ({"delimiter": ""}, "delimiter must be one character"),
    ],
)
def test_bad_arguments(table, arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        table(**arguments).setup("fit")
