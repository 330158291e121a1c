"""`TensorLoader`: every item when it should come, on every rank."""

import itertools

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device

import zoo.data.loader
from zoo.batch import Batch
from zoo.data import TensorLoader
from zoo.errors import DataError


def ids(loader):
    return [batch[0].tolist() for batch in loader]


def on_rank(monkeypatch, rank, world):
    monkeypatch.setattr(zoo.data.loader, "_rank_and_world", lambda: (rank, world))


def test_batches_hold_rows_that_belong_together():
    images = torch.arange(60).view(20, 3, 1, 1).to(torch.uint8)
    loader = TensorLoader(images, torch.arange(20), batch_size=6, shuffle=True)
    for x, y, *_ in loader:
        assert x.dtype == torch.uint8
        assert torch.equal(x, images[y])
        x.zero_()  # a batch is a copy: whatever is done to it, the data stays
    assert torch.equal(images.flatten(), torch.arange(60, dtype=torch.uint8))


def test_shuffled_epoch_is_a_permutation_of_whole_batches():
    loader = TensorLoader(torch.arange(103), batch_size=10, shuffle=True, drop_last=True)
    batches = ids(loader)
    assert len(batches) == len(loader) == 10
    assert {len(batch) for batch in batches} == {10}
    assert len({*itertools.chain(*batches)}) == 100
    assert sorted(loader.order().tolist()) == list(range(103))


def test_order_depends_on_seed_and_epoch_alone():
    def epochs(seed):
        loader = TensorLoader(torch.arange(50), batch_size=10, shuffle=True, seed=seed)
        return [ids(loader) for _ in range(3)]

    assert epochs(0) == epochs(0)
    orders = [str(epoch) for seed in range(3) for epoch in epochs(seed)]
    assert len({*orders}) == 9


def test_abandoned_pass_is_followed_by_the_next_epoch():
    loader, other = (TensorLoader(torch.arange(50), batch_size=10, shuffle=True) for _ in range(2))
    unused = iter(loader)
    first = next(iter(loader))[0].tolist()
    second = ids(loader)
    assert [first, second] == [ids(other)[0], ids(other)]
    del unused


@pytest.mark.parametrize("done", range(11))
def test_position_restores_the_rest_of_the_epoch(done):
    def make():
        return TensorLoader(torch.arange(53), batch_size=5, shuffle=True, seed=3, drop_last=True)

    loader, resumed = make(), make()
    ids(loader)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    resumed.load_state_dict(loader.state_dict())
    # A position at an epoch's end leaves nothing of it; one at its start is that of the epoch before.
    expected = [batch[0].tolist() for batch in batches] if done else []
    assert ids(resumed) == expected
    assert ids(resumed) == ids(loader)


def test_position_function_decides_where_a_pass_begins():
    wanted = (0, 0)
    loader = TensorLoader(torch.arange(40), batch_size=10, shuffle=True, position=lambda: wanted)
    zero, again = ids(loader), ids(loader)
    assert zero == again
    wanted = (2, 3)
    reference = TensorLoader(torch.arange(40), batch_size=10, shuffle=True)
    assert ids(loader) == [ids(reference), ids(reference), ids(reference)][2][3:]


@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_the_batches_of_one_process(monkeypatch, world):
    one = TensorLoader(torch.arange(101), batch_size=4 * world, shuffle=True, drop_last=True)
    expected = [ids(one), ids(one)]
    for epoch in range(2):
        parts = []
        for rank in range(world):
            on_rank(monkeypatch, rank, world)
            loader = TensorLoader(torch.arange(101), batch_size=4, shuffle=True, drop_last=True)
            parts.append([ids(loader) for _ in range(epoch + 1)][epoch])
        assert [list(itertools.chain(*shares)) for shares in zip(*parts, strict=True)] == expected[epoch]


def test_evaluation_covers_every_item_once_on_any_number_of_ranks(monkeypatch):
    for n, batch_size, world in itertools.product([*range(1, 40), 1000], [1, 2, 3, 7, 64], [1, 2, 3, 8]):
        if n < world:
            continue
        seen, counts = [], set()
        for rank in range(world):
            on_rank(monkeypatch, rank, world)
            loader = TensorLoader(torch.arange(n), batch_size=batch_size)
            batches = ids(loader)
            assert all(batches), "no batch is empty"
            # With single items there may be a rest that no rank can have alone.
            assert max(map(len, batches)) <= max(batch_size, 2 if world > 1 else 1)
            counts.add(len(batches))
            assert len(loader) == len(batches)
            seen += itertools.chain(*batches)
        assert len(counts) == 1, "ranks have equally many batches"
        assert sorted(seen) == list(range(n))


def test_evaluation_keeps_the_order_of_the_items():
    assert ids(TensorLoader(torch.arange(7), batch_size=3)) == [[0, 1], [2, 3], [4, 5, 6]]


class Ragged:
    """Rows of unequal length, as graphs are."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, chosen):
        return Ragged(self.rows[chosen] if isinstance(chosen, slice) else [self.rows[i] for i in chosen.tolist()])

    def to(self, device):
        return Ragged([row.to(device) for row in self.rows])

    def pin_memory(self):
        return Ragged([row.pin_memory() for row in self.rows])


def ragged(n=23):
    return Ragged([torch.full((1 + i % 4,), i) for i in range(n)])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [1, 2])
def test_the_index_names_the_datum_in_every_part_of_a_batch(monkeypatch, world, shuffle):
    x, label, condition = torch.randn(23, 2), torch.randint(9, (23,)), torch.randint(256, (23, 4), dtype=torch.uint8)
    every = []
    for rank in range(world):
        on_rank(monkeypatch, rank, world)
        loader = TensorLoader(x, label, condition, batch_size=4, shuffle=shuffle)
        for batch in (batch for _ in range(2) for batch in loader):
            assert batch.index.dtype == torch.int64
            assert batch.index.shape == (batch.size,)
            assert torch.equal(batch.x, x[batch.index])
            assert torch.equal(batch.label, label[batch.index])
            assert torch.equal(batch.condition, condition[batch.index])
            every += batch.index.tolist()
    assert sorted(every) == sorted([*range(23)] * 2)


def test_a_resumed_loader_goes_on_with_the_same_indices():
    loader, resumed = (TensorLoader(torch.arange(23), batch_size=4, shuffle=True, seed=2) for _ in range(2))
    batches = iter(loader)
    for _ in range(2):
        next(batches)
    resumed.load_state_dict(loader.state_dict())
    rest = [batch.index.tolist() for batch in batches]
    assert [batch.index.tolist() for batch in resumed] == rest
    assert [batch.x.tolist() for batch in loader] == [batch.index.tolist() for batch in resumed]


def test_what_the_data_lack_their_batches_lack():
    for batch in TensorLoader(torch.arange(5), batch_size=2):
        assert (batch.label, batch.condition) == (None, None)


def test_ragged_data_and_conditions_come_in_ragged_batches():
    data = ragged()
    for loader in (
        TensorLoader(data, torch.arange(23), batch_size=5, shuffle=True, drop_last=True),
        TensorLoader(torch.arange(23), torch.arange(23), data, batch_size=5),
    ):
        for batch in loader:
            rows = batch.x if isinstance(batch.x, Ragged) else batch.condition
            assert len(rows) == batch.size == len(batch.index)
            assert torch.equal(batch.label, batch.index)
            for row, i in zip(rows.rows, batch.index.tolist(), strict=True):
                assert torch.equal(row, data.rows[i])


class Kept(torch.Tensor):
    """A tensor that says how it was asked to move."""

    def to(self, device, **how):
        return device, how


def test_only_on_a_gpu_a_batch_does_not_wait_for_its_copy():
    """A copy back that does not wait is read before it is there; an object of the data's own knows no such word."""
    batch, gpu = Batch(torch.zeros(2).as_subclass(Kept), condition=ragged(2)), torch.device("cuda", 0)
    batch.condition.to = lambda device: device
    assert batch.to(gpu) == Batch((gpu, {"non_blocking": True}), condition=gpu)
    assert batch.to("cpu") == Batch(("cpu", {}), condition="cpu")
    # Lightning moves what has `to` as a whole, and does not say how.
    assert move_data_to_device(batch, gpu) == batch.to(gpu)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a CUDA device")
def test_pinned_batches_are_the_same():
    parts = torch.randint(256, (50, 3, 2, 2), dtype=torch.uint8), torch.arange(50), torch.randn(50, 3)
    loaders = [TensorLoader(*parts, batch_size=8, shuffle=True, pin=pin) for pin in (True, False)]
    for pinned, plain in zip(*loaders, strict=True):
        for x, y in zip(pinned, plain, strict=True):
            assert x.is_pinned()
            assert torch.equal(x, y)
    for batch in TensorLoader(ragged(), batch_size=8, pin=True):
        assert all(row.is_pinned() for row in batch.x.rows)


def test_impossible_loaders_are_refused(monkeypatch):
    with pytest.raises(DataError, match="the batch size must be at least 1, not 0"):
        TensorLoader(torch.arange(3), batch_size=0)
    with pytest.raises(DataError, match="the seed of the shuffling must be a whole number from 0 to"):
        TensorLoader(torch.arange(3), batch_size=1, seed=-1)
    with pytest.raises(DataError, match=r"lengths \[3, 4\]"):
        TensorLoader(torch.arange(3), torch.arange(4), batch_size=1)
    with pytest.raises(DataError, match=r"3 items are too few for batches of 4 on 1 device.*--data\.batch_size"):
        len(TensorLoader(torch.arange(3), batch_size=4, drop_last=True))
    on_rank(monkeypatch, 1, 4)
    with pytest.raises(DataError, match="3 items are too few for batches of 1 on 4 device"):
        next(iter(TensorLoader(torch.arange(3), batch_size=4)))
