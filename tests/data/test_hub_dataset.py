"""`HubDataset`: the pictures of a data set of `datasets`, read from local files, for no test needs a network."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import HubDataset
from zoo.errors import DataError
from zoo.hub.data import datamodule


def test_without_the_library_a_sentence_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError, match=r"`datasets`, which is not installed: pip install 'generative-zoo\[hub-data\]'"
    ):
        HubDataset("somebody/pictures").setup("fit")


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The library, which keeps its cache among the files of the test and asks no network."""
    found = pytest.importorskip("datasets")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(found.config, "HF_HUB_OFFLINE", True)
    found.disable_progress_bars()
    return found


def png(seed: int, mode: str = "RGB") -> bytes:
    """A picture of 6 x 9 pixels."""
    pixels = np.random.RandomState(seed).randint(0, 256, (6, 9, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def middle(seed: int) -> torch.Tensor:
    """Of a picture the 6 x 6 pixels in its middle."""
    pixels = np.random.RandomState(seed).randint(0, 256, (6, 9, 3)).astype(np.uint8)
    return torch.from_numpy(pixels[:, 1:7]).permute(2, 0, 1)


def table(datasets, n: int, seed: int = 0, names=("cat", "dog"), **columns):
    features = {"img": datasets.Image(), "kind": datasets.ClassLabel(names=list(names))}
    rows = {"img": [{"bytes": png(seed + i), "path": None} for i in range(n)], "kind": [i % 2 for i in range(n)]}
    features |= {name: kind for name, (kind, _) in columns.items()}
    rows |= {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def saved(folder, **splits):
    """Local parquet files, one a split."""
    folder.mkdir()
    for name, rows in splits.items():
        rows.to_parquet(str(folder / f"{name}.parquet"))
    return str(folder)


def test_columns_are_found_and_classes_have_names(datasets, tmp_path):
    where = saved(tmp_path / "pets", train=table(datasets, 20), test=table(datasets, 4, seed=50))
    data = HubDataset(where, size=6, batch_size=4)
    data.setup()
    assert (data.spec.shape, data.spec.classes, data.spec.class_names) == ((3, 6, 6), 2, ("cat", "dog"))
    assert (data.title, data.hub_id) == ("pets", None)
    assert torch.equal(data.test.x, torch.stack([middle(50 + i) for i in range(4)]))
    assert data.test.label.tolist() == [0, 1, 0, 1]
    rows = torch.cat([data.train.x, data.val.x])
    wanted = torch.stack([middle(i) for i in range(20)])
    assert sorted(rows.flatten(1).tolist()) == sorted(wanted.flatten(1).tolist())
    for x, label in zip(data.train.x, data.train.label, strict=True):
        assert (wanted == x).flatten(1).all(1).nonzero().item() % 2 == label


def test_config_makes_it_again_without_a_folder_of_this_machine(datasets, tmp_path):
    data = HubDataset(saved(tmp_path / "pets", train=table(datasets, 20)), size=6)
    config = json.loads(json.dumps({**data.config, "title": data.title}))
    assert str(tmp_path) not in json.dumps(datamodule(config).config)
    again = datamodule(config, root=tmp_path)
    for each in (data, again):
        each.setup("test")
    assert torch.equal(data.test.x, again.test.x)
    assert again.spec.class_names == ("cat", "dog")


def test_an_image_folder_of_datasets_gives_what_its_files_hold(datasets, tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "pets" / "train" / kind).mkdir(parents=True)
        for i in range(8):
            (tmp_path / "pets" / "train" / kind / f"{i}.png").write_bytes(png(i + 8 * (kind == "dog")))
    data = HubDataset(str(tmp_path / "pets"), size=6)
    data.setup("fit")
    assert data.spec.class_names == ("cat", "dog")
    assert len(data.train.x) + len(data.val.x) < 16
    for x, label in zip(data.train.x, data.train.label, strict=True):
        assert any(torch.equal(x, middle(i + 8 * label)) for i in range(8))


def test_what_cannot_be_read_is_said_once_with_its_number(datasets, tmp_path):
    features = datasets.Features({"img": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    good = [{"bytes": png(i), "path": None} for i in range(12)]
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(99))
    bad = [{"bytes": b"no picture", "path": None}, {"bytes": None, "path": str(secret)}, None]
    rows = datasets.Dataset.from_dict({"img": good + bad, "kind": [0] * 14 + [-1]}, features=features)
    data = HubDataset(saved(tmp_path / "pets", train=rows, test=table(datasets, 2)), size=6)
    with pytest.warns(UserWarning, match="left out: 1 without a label .*2 unreadable") as caught:
        data.setup()
    assert len(caught) == 1
    assert len(data.train.x) + len(data.val.x) == 12, "a file outside the data set is not read"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"image": "picture", "label": "kind"}, "has no column 'picture': it has 'img', 'kind', 'other' and 1 more"),
        ({}, "several columns of labels, 'kind', 'other': name one by label"),
        ({"label": "sort"}, "has no column 'sort'"),
        ({"label": "kind", "image": "text"}, "holds no pictures"),
        ({"label": "kind", "class_names": ["dog"]}, "has the class 'cat', and class_names has 'dog'"),
    ],
)
def test_columns_that_are_not_there(datasets, tmp_path, arguments, complaint):
    more = {
        "other": (datasets.ClassLabel(names=["a", "b"]), [0] * 20),
        "text": (datasets.Value("int64"), list(range(20))),
    }
    where = saved(tmp_path / "pets", train=table(datasets, 20, **more))
    with pytest.raises(DataError, match=complaint) as error:
        HubDataset(where, size=6, **arguments).setup("fit")
    assert len(str(error.value)) < 500
    data = HubDataset(where, size=6, label="")
    data.setup("fit")
    assert (data.spec.classes, data.train.label) == (0, None)


def test_no_data_set_of_that_name(datasets, tmp_path):
    with pytest.raises(DataError, match="`datasets` cannot load 'nobody/nothing' on the Hub"):
        HubDataset("nobody/nothing").setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="`datasets` cannot load the folder"):
        HubDataset("empty", root=str(tmp_path)).setup("fit")
