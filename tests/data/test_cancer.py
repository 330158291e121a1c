"""The table inside scikit-learn: every row once, the same split each time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from zoo.data import BreastCancer
from zoo.errors import DataError


def test_the_splits_are_all_of_the_table():
    data = BreastCancer()
    data.setup()
    assert [len(split[0]) for split in (data.train, data.val, data.test)] == [398, 57, 114]
    rows = torch.cat([split[0] for split in (data.train, data.val, data.test)]).numpy()
    labels = torch.cat([split[1] for split in (data.train, data.val, data.test)]).numpy()
    table = load_breast_cancer()
    found = np.column_stack([rows, labels])
    expected = np.column_stack([table.data.astype(np.float32), table.target])
    assert np.array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])
    assert not np.array_equal(found, expected), "shuffled"


def test_batches_fit_the_spec_and_the_split_does_not_depend_on_the_seed():
    data, other = BreastCancer(batch_size=16), BreastCancer(seed=1)
    for one in (data, other):
        one.setup()
        assert torch.equal(one.test[0], data.test[0])
    x, labels, *_ = next(iter(data.train_dataloader()))
    data.spec.check(x)
    assert (x.dtype, tuple(x.shape), labels.dtype) == (torch.float32, (16, 30), torch.int64)
    assert data.spec.classes == 2
    assert set(labels.tolist()) <= {0, 1}


def test_too_large_a_validation_split_is_refused():
    with pytest.raises(DataError, match="breast cancer has 455 training items, of which 455 cannot be held out"):
        BreastCancer(validation=455).setup("fit")
