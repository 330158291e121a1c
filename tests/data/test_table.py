"""`Table`: files of numbers become splits, and what is no such file is refused in one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch

from zoo.autoregressive import MADE
from zoo.data.table import Table
from zoo.errors import DataError
from zoo.hub.config import portable, read_config
from zoo.hub.data import datamodule
from zoo.hub.store import save as save_checkpoint
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


# -- text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "columns", "rows"),
    [
        ("a,b\n1.5,2\n", ("a", "b"), [[1.5, 2]]),
        ("\ufeffx\n-1e-3\n", ("x",), [[-0.001]]),
        ('"height, cm";weight\r\n"1.5";2\r\n', ("height, cm", "weight"), [[1.5, 2]]),
        ("# x y\n1 2\n3 4\n", ("x", "y"), [[1, 2], [3, 4]]),
        ("größe\tb2\n.5\t+2.\n", ("größe", "b2"), [[0.5, 2]]),
        ("a,b\n1,5\n2,5\n", ("a", "b"), [[1, 5], [2, 5]]),  # the header says that there are two
        ("1,0.5\n2,5\n", None, [[1, 0.5], [2, 5]]),  # and here a point does
        ("1,2,3\n", None, [[1, 2, 3]]),
        ("0,1,2\n3,4,5\n", None, [[0, 1, 2], [3, 4, 5]]),
        ('"2019","2015"\n"1","2"\n', None, [[2019, 2015], [1, 2]]),
        ("2019,2021\n1,2.5\n", None, [[2019, 2021], [1, 2.5]]),
        ("a,b\n\n1,2\n\n", ("a", "b"), [[1, 2]]),
        ("1.5\r2.5\r", None, [[1.5], [2.5]]),
    ],
)
def test_a_header_names_the_columns(tmp_path, text, columns, rows):
    (tmp_path / "t.csv").write_bytes(text.encode())
    data = Table("absent.npy", "t.csv", levels=None, root=str(tmp_path))
    data.setup("test")
    assert torch.equal(data.test.x, torch.tensor(rows, dtype=torch.float32))
    assert data.columns == columns


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        # Which column, by its name, and which line.
        ("height,sort\n1,2\n1,oak\n", "line 3, column 'sort', has 'oak', which is not numeric"),
        ("height,sort\n1,\n", "line 2, column 'sort', is empty, not numeric: fill in what is missing"),
        ("a,b\n1,NA\n", "line 2, column 'b', has 'NA', which is not numeric: fill in"),
        ("a,b\n1,nan\n", "line 2, column 'b', has 'nan', which is not numeric: fill in"),
        ("a,b\n1,-Infinity\n", "line 2, column 'b', has the value '-Infinity': replace or leave out"),
        ("a,b\n1,1e999\n", "has the value inf: replace or leave out what is NaN, infinite or beyond float32"),
        ("a,b\n1,1_000\n", "line 2, column 'b', has '1_000', which is not numeric: write nothing between thousands"),
        ("a,b\n1,0x10\n", "column 'b', has '0x10', which is not numeric"),
        ("a,b\n1,\u0661\n", "column 'b', has .* which is not numeric"),
        ("a,b\n1,2\na,b\n3,4\n", "line 3, repeats the header: remove it"),
        ("a,b\nc,d\n1,2\n", "line 2, column 'a', has 'c', which is not numeric"),
        (",a\n0,1\n", "line 1, column 1, has no name, as numbers of rows have none"),
        ("a,b\n", "is empty: it needs at least one row of numbers beside its header"),
        # Numbers that may be names of columns.
        ('"2019","2020"\n1,2\n', "line 1, is alone in quotes, so that its numbers may be names of columns or a row"),
        ("2019,2020,2021\n1,2,3\n", "line 1, counts up, so that its numbers may be names"),
        ("0,1,2\n0.5,2,1\n", "line 1, counts up, .* give columns names that have letters, or put another row first"),
        ("\ufeff0;1\n1;2.5e-3\n", "line 1, counts up"),
        # Decimal commas, and commas between thousands.
        ("a;b\n1,234;5\n", "has '1,234', .* write a decimal point, or nothing between thousands, for the comma"),
        ("1,5\n2,25\n", "may have decimal commas or be separated by commas, .* say delimiter ','"),
        ("1,5 2,5\n3,5 4,5\n", "may have decimal commas"),
        ("1,5, 2,5\n3,5, 4,5\n", "may have decimal commas"),
        ("a\n1,5\n", "line 2, column 'a', has '1,5', which is not numeric: write a decimal point"),
        ("a;b\n1,5;2,5\n", "line 2, column 'a', has '1,5', .* write a decimal point in place of a decimal comma"),
        ("1,5;2,5\n", "line 1, column 1, has '1,5', .* write a decimal point"),
        ("1,5\t2,5\n", "line 1, column 1, has '1,5', .* write a decimal point"),
        ('a,b\n"1,5","2,5"\n', "line 2, column 'a', has '1,5', .* write a decimal point"),
        ("1,234.5\n2,345.25\n", "may have commas between thousands"),
        ("1,234,567\n", "may have commas between thousands"),
        ("a;b\n1.234,5;2\n", "has '1.234,5', which is not numeric: write nothing between thousands"),
        ("a;b\n1'234;2\n", 'has "1\'234", which is not numeric: write nothing between thousands'),
        ("a;b\n1 234;2\n", "has '1 234', which is not numeric: write nothing between thousands"),
        # Separators.
        ("a,b\n1;2\n", "line 2, column 'a', has '1;2', which is not numeric: separate all numbers alike"),
        ("1.5,2\n1.5;2\n", "line 2, column 1, has '1.5;2', .* separate all numbers alike"),
        ("1;2\t3\n", "line 1, has both semicolons and tabs"),
        ("a,b\n1,2,3\n", "line 2, has 3 numbers, but the header has 2"),
        ("a,b,c\n1,2\n", "line 2, has 2 numbers, but the header has 3"),
        ("a,b\n1,2,\n", "line 2, has 3 numbers, but the header has 2"),
        ('a,b\n1,"2\n3,4\n', "line 2, has a quote that is not closed"),
        ('"a,b\n1,2\n', "line 1, has a quote that is not closed"),
        # What is no text.
        ("1,2\n3,\0\n", "is no text, for it holds NUL bytes"),
        ("a,b\n1,2\n".encode("utf-16"), "is no text in UTF-8 but in UTF-16"),
        ("a,b\n1,2\n".encode("utf-16-be"), "is no text, for it holds NUL bytes"),
        ("größe,b\n1,2\n".encode("cp1252"), "is no text in UTF-8, first in line 1"),
        ("a,b\n1,2\n3\x0c4,5\n", "line 3, column 'a', has .* which is not numeric"),
    ],
)
def test_text_that_is_no_table_or_two_is_refused(tmp_path, text, sentence):
    (tmp_path / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=sentence) as error:
        Table("t.csv", "t.csv", levels=None, root=str(tmp_path)).setup("test")
    assert str(error.value).startswith(str(tmp_path / "t.csv"))
    assert len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_a_separator_that_is_said_is_not_doubted(tmp_path):
    (tmp_path / "t.csv").write_text("1,5\n2,25\n")
    for arguments, rows in (({"delimiter": ","}, [[1, 5], [2, 25]]), ({"levels": 26}, [[1, 5], [2, 25]])):
        data = Table("t.csv", "t.csv", root=str(tmp_path), **{"levels": None, **arguments})
        data.setup("test")
        assert data.test.x.tolist() == rows


def test_columns_in_another_order_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("height,weight\n1,2\n3,4\n")
    (tmp_path / "b.csv").write_text("weight,height\n1,2\n")
    data = Table("a.csv", "b.csv", levels=None, root=str(tmp_path))
    data.setup("fit")
    with pytest.raises(DataError, match=r"Column 1 of .*b\.csv is 'weight', but that of another split is 'height'"):
        data.setup("test")


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
        ({"delimiter": "."}, "delimiter must be no part of a number"),
        ({"delimiter": "1"}, "delimiter must be no part of a number"),
    ],
)
def test_bad_arguments(table, arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        table(**arguments).setup("fit")


def header(text: str) -> bytes:
    """A .npy file with this header and nothing behind it."""
    data = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (%s, 2)}" % ("9" * 500),
        "(" * 900,
        "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1, 1)}",
    ],
)
def test_a_header_that_promises_too_much_takes_no_memory(tmp_path, text):
    (tmp_path / "t.npy").write_bytes(header(text))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="is no array of numbers") as error:
            Table("t.npy", "t.npy", root=str(tmp_path)).setup("test")
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 500


def test_a_pipe_in_a_tables_place_is_not_waited_for(tmp_path):
    for name in ("t.csv", "t.npy"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError, match="is no file: put the table there"):
            Table(name, name, root=str(tmp_path)).setup("test")


# -- paths of other machines ---------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["/home/somebody/{}", "C:\\data\\{}", "~/{}", "../../{}", "\\\\server\\share\\{}"])
def test_a_checkpoints_table_is_looked_for_by_name_and_it_is_said_where(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    files = {"train": where.format("a.csv"), "test": where.format("b.csv")}
    config = {"class_path": "zoo.data.Table", "init_args": {**files, "levels": None, "delimiter": "/"}}
    assert portable(config)["init_args"] == {"train": "a.csv", "test": "b.csv", "levels": None, "delimiter": "/"}
    with pytest.raises(DataError) as error:
        datamodule(config).setup("test")
    assert str(error.value).startswith(f"{tmp_path / 'b.csv'} is no file: put the table there, or say in which folder")
    assert "--root" in str(error.value)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "b.csv").write_text("1.5/2\n")
    data = datamodule(config, root=tmp_path / "tables")
    data.setup("test")
    assert data.test.x.tolist() == [[1.5, 2]]


def test_no_folder_of_this_machine_is_saved(tmp_path):
    data = {"class_path": "mine.Data", "init_args": {"files": ["/home/me/x.npy"], "name": "user/set", "n": 3}}
    folder = save_checkpoint(MADE([1, 2, 2], hidden=4, layers=1), tmp_path / "made-mine", data=data)
    saved = read_config(folder)["data"]["init_args"]
    assert saved == {"files": ["x.npy"], "name": "user/set", "n": 3}
