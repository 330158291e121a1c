"""`TensorData`: data of every kind become splits and batches, and a data set is one class in one file."""

from __future__ import annotations

import json
import logging
import sys
import warnings

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer

import zoo.data
from zoo.autoregressive import MADE
from zoo.batch import Batch
from zoo.classes import HUB_DATASETS, dataset_title
from zoo.data import ImageData, TensorData
from zoo.data.splits import split_of
from zoo.errors import DataError
from zoo.evaluation.measure import evaluate
from zoo.hub.data import datamodule
from zoo.spec import DataSpec

SIZES = {"train": 30, "test": 12}


def numbers(split: str, *shape: int) -> torch.Tensor:
    """Item i has the value i, from 100 on for tests."""
    first = 100 if split == "test" else 0
    values = torch.arange(first, first + SIZES[split])
    return values.view(-1, *[1] * len(shape)).expand(-1, *shape).contiguous()


class Words(TensorData):
    """Pairs of tokens, with labels."""

    title, kind, shape, levels, classes = "words", "tokens", (2,), 200, 3

    def read(self, split):
        x = numbers(split, 2)
        return x, x[:, 0] % 3


class Film(TensorData):
    """Short films, without labels."""

    title, kind, shape, levels = "film", "video", (4, 1, 2, 2), 256

    def read(self, split):
        return numbers(split, 4, 1, 2, 2).to(torch.uint8)


class Negatives(ImageData):
    """Images, and what each is to be made of."""

    title, shape, condition = "negatives", (1, 2, 2), DataSpec((3, 2, 2), 256)

    def read(self, split):
        x = numbers(split, 1, 2, 2).to(torch.uint8)
        # Whatever index a data set gives, that of a batch is the place in its split.
        return Batch(x, condition=255 - x.expand(-1, 3, 2, 2), index=torch.full((len(x),), 7))


class Ragged:
    """Nodes of graphs, of which no two need be equally many."""

    def __init__(self, nodes):
        self.nodes = nodes

    def __len__(self):
        return len(self.nodes)

    def __getitem__(self, chosen):
        return Ragged(self.nodes[chosen] if isinstance(chosen, slice) else [self.nodes[i] for i in chosen.tolist()])

    def to(self, device):
        return Ragged([nodes.to(device) for nodes in self.nodes])


class Molecules(TensorData):
    """Graphs without edges."""

    title, kind, shape = "molecules", "graph", (5,)

    def read(self, split):
        return Ragged([torch.full((1 + i % 3, 5), float(i)) for i in numbers(split).tolist()])


class Official(TensorData):
    """Points with a validation split of their own; which they are, an argument says."""

    title, splits, essential = "official", ("train", "validation", "test"), ("dims",)

    def __init__(self, dims: int = 2, root: str | None = None, batch_size: int = 4) -> None:
        super().__init__(root, batch_size)
        self.dims, self.shape = dims, (dims,)

    def read(self, split):
        return torch.full(({"train": 8, "validation": 3, "test": 5}[split], self.dims), float(len(split)))


def same(one, other) -> bool:
    """Whether two parts of batches are equal."""
    if one is None or other is None:
        return one is other
    if isinstance(one, Ragged):
        return len(one) == len(other) and all(map(torch.equal, one.nodes, other.nodes))
    return torch.equal(one, other)


@pytest.mark.parametrize("cls", [Words, Film, Negatives, Molecules])
def test_data_of_every_kind_become_splits_and_batches_that_know_their_place(cls):
    data = cls(batch_size=4, validation=5, eval_batch_size=3)
    data.setup()
    spec = DataSpec(cls.shape, cls.levels, cls.classes, cls.kind, cls.condition)
    assert data.spec == spec
    assert [split.size for split in (data.train, data.val, data.test)] == [25, 5, 12]
    loaders = data.train_dataloader(), data.val_dataloader(), data.test_dataloader()
    for split, loader in zip((data.train, data.val, data.test), loaders, strict=True):
        assert isinstance(split, Batch)
        assert split.index is None
        data.spec.check(split.x)
        if data.spec.condition:
            data.spec.condition.check(split.condition)
        seen = []
        for batch in loader:
            for part, whole in zip(batch[:3], split[:3], strict=True):
                assert same(part, None if whole is None else whole[batch.index])
            seen += batch.index.tolist()
        assert len(seen) == len(set(seen)) == (24 if split is data.train else split.size)
        assert (seen == sorted(seen)) == (split is not data.train)
    # Of the training data the last are held out, the labels and conditions with them.
    whole = zoo.batch.as_batch(cls().read("train"))
    for part, first, last in zip(whole[:3], data.train[:3], data.val[:3], strict=True):
        assert same(first, part if part is None else part[:25])
        assert same(last, part if part is None else part[25:])


def test_an_official_validation_split_is_taken_as_it_is():
    data = Official()
    data.setup()
    assert [(len(split.x), split.x[0, 0].item()) for split in (data.train, data.val, data.test)] == [
        (8, 5.0),
        (3, 10.0),
        (5, 4.0),
    ]


def test_a_tenth_is_held_out_unless_it_is_said_otherwise():
    for given, held in ((None, 3), (1, 1), (29, 29)):
        data = Words(validation=given)
        data.setup("fit")
        assert (data.train.size, data.val.size) == (30 - held, held)
    for given in (0, -1, 30):
        with pytest.raises(DataError, match=rf"words has 30 training items, of which {given} cannot be held out"):
            Words(validation=given).setup("fit")


def test_a_class_that_says_nothing_of_its_data_is_refused():
    with pytest.raises(DataError, match="TensorData does not say what its data are: give it a shape"):
        TensorData().spec  # noqa: B018
    with pytest.raises(NotImplementedError, match=r"TensorData does not define read\(\)"):
        TensorData().setup("test")


def test_config_is_what_is_essential():
    config = json.loads(json.dumps(Official(dims=3, batch_size=2).config))
    assert config == {"class_path": f"{__name__}.Official", "init_args": {"dims": 3}}
    assert Official(**config["init_args"]).spec == DataSpec((3,), None)


def test_published_data_sets_say_what_the_tables_say():
    published = [getattr(zoo.data, name) for name in zoo.data.__all__ if hasattr(getattr(zoo.data, name), "title")]
    named = {cls.__name__: cls for cls in published if cls.title}
    assert {name: cls.title for name, cls in named.items()} == {name: dataset_title(name) for name in named}
    assert {name: cls.hub_id for name, cls in named.items() if cls.hub_id} == HUB_DATASETS


# -- one class in one file ----------------------------------------------------------------------------------------

SQUARES = '''
"""Squares."""
import torch
from zoo.data.tensors import TensorData


class Squares(TensorData):
    """A bit, and twice the same."""

    title, hub_id, shape, levels, essential = "squares", "somebody/squares", (3,), 2, ("fair",)

    def __init__(self, fair: bool = True, root: str | None = None, batch_size: int = 8) -> None:
        super().__init__(root, batch_size)
        self.fair = fair

    def read(self, split):
        n = 64 if split == "train" else 20
        return (torch.arange(n) % (2 if self.fair else 4) == 0).to(torch.uint8)[:, None].expand(n, 3)
'''


@pytest.fixture
def squares(tmp_path, monkeypatch):
    """The class of a file that lies in `zoo/data`, as far as imports can tell; nothing else knows of it."""
    (tmp_path / "squares.py").write_text(SQUARES)
    monkeypatch.setattr(zoo.data, "__path__", [*zoo.data.__path__, str(tmp_path)])
    from zoo.data.squares import Squares

    yield Squares
    del sys.modules["zoo.data.squares"], zoo.data.squares


def test_a_data_set_is_one_class_in_one_file(squares, tmp_path):
    data = squares(fair=False)
    config = json.loads(json.dumps(data.config))
    assert config == {"class_path": "zoo.data.squares.Squares", "init_args": {"fair": False}}
    torch.manual_seed(0)
    model = MADE([3], hidden=16, lr=0.05, warmup=0)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
        trainer = Trainer(
            default_root_dir=tmp_path, accelerator="cpu", max_steps=40, num_sanity_val_steps=0, logger=False, **quiet
        )
        trainer.fit(model, datamodule=data)
    # By its name alone, as config.json holds it.
    (result,) = evaluate(model, data=config, device="cpu")
    again = datamodule(config, batch_size=5)
    again.setup("test")
    expected = -model.eval().log_prob(again.test.x).mean().item()
    assert (result.dataset, result.split, result.n) == ("Squares", "test", 20)
    assert result.value == pytest.approx(expected, rel=1e-5)
    # The entropy is that of a coin that shows one face of four; three fair ones would need 2.08 nats.
    assert 0.562 < result.value < 1.0


# -- splits of anybody's data -------------------------------------------------------------------------------------


class Stranger(LightningDataModule):
    """A data module of another house: what its splits are, the tests say."""

    spec = DataSpec((2,), None)


def test_training_data_are_all_that_were_given_for_training():
    data = Words(validation=5)
    assert torch.equal(split_of(data, "train", "words"), numbers("train", 2))
    assert torch.equal(split_of(data, "test", "words"), numbers("test", 2))


@pytest.mark.parametrize("pack", [lambda x: x, lambda x: (x,), lambda x: (x, torch.zeros(len(x), dtype=torch.int64))])
def test_splits_of_strangers_are_tensors_or_tuples(pack):
    data = Stranger()
    data.train, data.val, data.test = (pack(torch.full((n, 2), float(n))) for n in (4, 2, 3))
    assert split_of(data, "train", "x")[:, 0].tolist() == [4.0] * 4 + [2.0] * 2
    assert split_of(data, "test", "x")[:, 0].tolist() == [3.0] * 3


def test_splits_that_cannot_be_had_are_refused():
    data = Stranger()
    with pytest.raises(DataError, match=r"Stranger has no attribute train, .*: take a data module that has its splits"):
        split_of(data, "train", "x")
    data.train = data.val = torch.zeros(3, 5)
    with pytest.raises(DataError, match=r"the points has shape \(3, 5\)"):
        split_of(data, "train", "the points")
    graphs = Molecules(validation=5)
    assert len(split_of(graphs, "test", "graphs")) == 12
    with pytest.raises(DataError, match="graphs is ragged, and its two parts cannot be put together"):
        split_of(graphs, "train", "graphs")
