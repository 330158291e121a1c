"""`DataSpec` says what a batch is, and refuses what is none in one sentence."""

import json

import pytest
import torch

from zoo.errors import DataError
from zoo.spec import DataSpec

IMAGES = DataSpec((3, 4, 5), levels=17, classes=10)
POINTS = DataSpec((2,), levels=None)
TOKENS = DataSpec((6,), levels=1000)


def test_lists_are_as_good_as_tuples():
    assert DataSpec([3, 4, 5], 17, 10) == IMAGES
    assert hash(DataSpec([3, 4, 5], 17, 10)) == hash(IMAGES)
    assert IMAGES.dims == 60


@pytest.mark.parametrize(
    ("spec", "x"),
    [
        (IMAGES, torch.full((2, 3, 4, 5), 16, dtype=torch.uint8)),
        (IMAGES, torch.zeros(0, 3, 4, 5, dtype=torch.uint8)),
        (POINTS, torch.randn(7, 2)),
        (POINTS, torch.randn(7, 2, dtype=torch.float64)),
        (TOKENS, torch.full((1, 6), 999)),
    ],
)
def test_good_batches_pass(spec, x):
    spec.check(x)


@pytest.mark.parametrize(
    ("spec", "x", "complaint"),
    [
        (IMAGES, [[1]], "torch tensor"),
        (
            IMAGES,
            torch.zeros(3, 4, 5, dtype=torch.uint8),
            r"shape \(3, 4, 5\); this model takes \(N, 3, 4, 5\)",
        ),
        (IMAGES, torch.zeros(2, 3, 5, 4, dtype=torch.uint8), "shape"),
        (IMAGES, torch.zeros(2, 3, 4, 5), "float32; this model takes torch.uint8 with values 0..16"),
        (IMAGES, torch.zeros(2, 3, 4, 5, dtype=torch.int64), "int64"),
        (IMAGES, torch.full((2, 3, 4, 5), 17, dtype=torch.uint8), "values 17..17; this model takes 0..16"),
        (POINTS, torch.zeros(1, 2, dtype=torch.int64), "floating point"),
        (POINTS, torch.tensor([[0.0, float("nan")]]), "NaN or infinite"),
        (POINTS, torch.tensor([[0.0, -float("inf")]]), "NaN or infinite"),
        (TOKENS, torch.full((1, 6), 1000), "1000"),
        (TOKENS, torch.full((1, 6), -1), "values -1..-1"),
    ],
)
def test_bad_batches_are_refused(spec, x, complaint):
    with pytest.raises(DataError, match=complaint) as error:
        spec.check(x, "the image")
    assert str(error.value).startswith("the image ")
    assert "\n" not in str(error.value)


def test_values_may_be_left_unchecked_but_shape_and_dtype_not():
    spec = DataSpec((1, 2, 2), 3)
    beyond = torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)
    with pytest.raises(DataError, match="7"):
        spec.check(beyond)
    spec.check(beyond, values=False)
    with pytest.raises(DataError, match="float32"):
        spec.check(beyond.float(), values=False)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), (3, -1, 5)])
def test_sizes_are_positive(shape):
    with pytest.raises(DataError, match="shape must be of positive sizes"):
        DataSpec(shape)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"shape": 3}, "shape must be a list of sizes, not 3"),
        ({"shape": (2.5,)}, r"shape must be of positive sizes, not \[2.5\]"),
        ({"shape": (2,), "levels": 0}, "levels must be a positive number"),
        ({"shape": (2,), "levels": -1}, "levels must be a positive number"),
        ({"shape": (2,), "levels": 2.0}, "levels must be a positive number"),
        ({"shape": (2,), "classes": -3}, "classes must be 0 or the number of labels, not -3"),
    ],
)
def test_what_specifies_no_data_is_refused(arguments, complaint):
    with pytest.raises(DataError, match=complaint):
        DataSpec(**arguments)


def test_a_remedy_is_one_that_the_model_has():
    other = DataSpec((3, 4, 4), levels=17)
    with pytest.raises(DataError, match=r"takes .*: set model\.init_args\.shape to the data's\."):
        IMAGES.fits(other, arguments=("shape", "levels"))
    with pytest.raises(DataError, match=": choose other data"):
        IMAGES.fits(other)
    with pytest.raises(DataError, match=": choose other data"):
        POINTS.fits(other, arguments=("shape", "levels"))
    given = DataSpec((3, 4, 5), 17, condition=IMAGES)
    with pytest.raises(DataError, match="As a condition, the data module has 4 classes, but the model is conditioned"):
        given.fits(DataSpec((3, 4, 5), 17, condition=DataSpec((3, 4, 5), 17, classes=4)), labels=True)


# -- names of classes ------------------------------------------------------------------------------------------

PETS = ("cat", "dog", "Horse", "10")


def pets(**arguments):
    return DataSpec((1, 2, 2), 2, len(PETS), class_names=PETS, **arguments)


@pytest.mark.parametrize(
    ("label", "labels"),
    [
        ("dog", [1, 1]),
        (["cat", "Horse"], [0, 2]),
        (("horse", 3), [2, 3]),
        ("2", [2, 2]),  # no name, but a number
        ("10", [3, 3]),  # a name
        (1, [1, 1]),
    ],
)
def test_labels_are_given_by_name_or_number(label, labels):
    assert pets().labels(label, 2).tolist() == labels


@pytest.mark.parametrize(
    ("label", "complaint"),
    [
        ("hrose", "There is no class 'hrose': close to it is Horse."),
        ("zebra", "There is no class 'zebra': there are cat, dog, Horse, 10."),
        (["cat", "cta"], "There is no class 'cta': close to it is cat."),
        ("7", "label is 7; this model takes 0..3"),
        ("\x1b[2J" * 100, "There is no class '"),
        (["cat"], "label has shape"),
        ("9" * 5000, "There is no class"),
    ],
)
def test_an_unknown_name_is_answered_with_the_close_ones(label, complaint):
    with pytest.raises(DataError) as error:
        pets().labels(label, 2)
    assert str(error.value).startswith(complaint)
    assert len(str(error.value)) < 300
    assert "\x1b" not in str(error.value)


def test_a_name_where_none_is_known():
    with pytest.raises(DataError, match=r"no class 'cat', for the names of the 4 are not known: give a number, 0\.\.3"):
        DataSpec((1, 2, 2), 2, 4).labels("cat", 2)
    assert DataSpec((1, 2, 2), 2, 4).labels("3", 2).tolist() == [3, 3]


def test_names_are_kept_as_json_and_change_nothing_else():
    spec = pets(condition=DataSpec((2,), None, 1, class_names=("only",)))
    config = json.loads(json.dumps(spec.config))
    again = DataSpec.from_config(config)
    assert (again.class_names, again.condition.class_names) == (PETS, ("only",))
    unnamed = DataSpec((1, 2, 2), 2, len(PETS))
    assert pets() == unnamed
    assert "class_names" not in unnamed.config, "a config.json of before is written as it was"
    assert DataSpec.from_config(unnamed.config).class_names is None


@pytest.mark.parametrize(
    "names",
    [
        ["cat"],
        "cats",
        ["cat", "dog", "dog", "cow"],
        ["cat", "dog", "cow", ""],
        ["cat", "dog", "cow", "\x1b[31mred"],
        ["cat", "dog", "cow", "two\nlines"],
        ["cat", "dog", "cow", "\x9b2J"],
        ["cat", "dog", "cow", "\u202eevil"],
        ["cat", "dog", "cow", "x" * 101],
        ["cat", "dog", "cow", 3],
        {"cat": 0, "dog": 1, "cow": 2, "owl": 3},
        5,
    ],
)
def test_names_from_a_stranger_are_checked(names):
    with pytest.raises(DataError) as error:
        DataSpec.from_config({"shape": [1, 2, 2], "levels": 2, "classes": 4, "class_names": names})
    assert len(str(error.value)) < 300
    assert str(error.value).isprintable()
