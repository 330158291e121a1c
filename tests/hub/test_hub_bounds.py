"""What a few bytes of a checkpoint may cost: it is bounded before anything is built, and read last."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from damage import join, read_config, rehash, split, write_config
from safetensors.torch import load_file, save_file
from torch import nn

import zoo.hub.folder
from zoo.autoregressive import MADE, PixelCNN
from zoo.commands.sharing import list_checkpoints
from zoo.errors import CheckpointError, ZooError, plain
from zoo.flows import Glow
from zoo.hub import card, store, tables
from zoo.hub.bounds import MOST_MODULES, TooLarge, bounded
from zoo.hub.header import MOST_SIZES, MOST_TENSORS, shapes_of

TESTS = Path(__file__).resolve().parents[1]
WEIGHTS = "model.safetensors"
RESULT = {"metric": "nats", "kind": "upper", "value": 1.0, "n": 1, "split": "test", "dataset": "MNIST", "protocol": ""}


def with_header(folder: Path, edit) -> None:
    header, buffer = split((folder / WEIGHTS).read_bytes())
    edit(header)
    (folder / WEIGHTS).write_bytes(join(header, buffer))
    rehash(folder)


def refused(folder: Path, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        store.load(folder)
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


# -- before anything is built ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_named_sizes_take_little_memory_and_computing(tmp_path):
    """In a process of its own, which may compute for a minute in all; each takes some tenths of a second."""
    script = (
        "import checkpoints, resource, sys\n"
        "from pathlib import Path\n"
        "from zoo.errors import CheckpointError\n"
        "n = len(checkpoints.NAMED)\n"
        "for i, (said, case) in enumerate(checkpoints.cases(0, n, Path(sys.argv[1]))):\n"
        "    if not i:\n"
        "        [checkpoints._files(name) for name in checkpoints.FAMILIES]\n"
        "        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    try:\n"
        "        case()\n"
        "    except CheckpointError as error:\n"
        "        assert len(str(error)) < 500\n"
        "    else:\n"
        "        raise AssertionError(said)\n"
        "    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before\n"
        "    assert grown < 300 * 1024, (said, grown)\n"
        "print(n)\n"
    )
    paths = [TESTS.parent, TESTS, TESTS / "hub", TESTS / "attack"]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 15


def nest(depth: int) -> nn.Module:
    module = nn.Identity()
    for _ in range(depth):
        module = nn.Sequential(module)
    return module


def test_modules_are_counted_as_they_are_registered():
    with bounded({}):
        nest(250)
    with pytest.raises(TooLarge), bounded({}):
        nest(10**9)
    with bounded({f"{i}": (1,) for i in range(100)}):
        nest(1500)
    with pytest.raises(TooLarge), bounded({f"{i}": (1,) for i in range(10**4)}):
        nest(MOST_MODULES + 1)
    nest(2000)  # there is no bound afterwards


def test_what_the_bound_interrupts_cannot_be_caught_as_an_error():
    def stubborn() -> None:
        for _ in range(10**9):
            try:
                torch.zeros(2**30)
            except Exception:
                continue

    with pytest.raises(TooLarge), bounded({"a": (3,)}):
        stubborn()


def test_a_large_model_whose_file_holds_it_is_built(tmp_path):
    model = PixelCNN(shape=[1, 4, 4], levels=4, channels=64, blocks=40)
    loaded = store.load(store.save(model, tmp_path / "pixelcnn-large"))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


def test_a_few_weights_are_not_of_images_of_a_hundred_megabytes(tmp_path):
    model = Glow(shape=[1, 8, 8], levels=17, steps=1, channels=4, blocks=1)
    folder = store.save(model, tmp_path / "glow-tiny")
    config = read_config(folder)
    for side, fits in ((512, True), (2**18, False)):
        write_config(folder, config | {"init_args": config["init_args"] | {"shape": [1, 8, side]}})
        if fits:
            assert store.load(folder).spec.shape == (1, 8, side)
        else:
            refused(folder, "data of shape .* is absurdly large")


def test_weights_are_not_read_before_the_model_fits(checkpoint, monkeypatch):
    with_header(checkpoint, lambda header: header["net.hidden.bias"].update(shape=[1, 4]))

    def read(path, *_):
        raise AssertionError("the whole file is read")

    monkeypatch.setattr(zoo.hub.folder, "read_bytes", read)
    monkeypatch.setattr(zoo.hub.store, "check_undamaged", lambda *_: None)
    refused(checkpoint, "has shape")


@pytest.mark.parametrize("fits", [True, False])
def test_what_lies_behind_the_tensors_is_not_read(checkpoint, monkeypatch, fits):
    """A file of 6 GiB, most of it a hole, whose header is the model's own or another's."""
    if not fits:
        with_header(checkpoint, lambda header: header["net.hidden.bias"].update(shape=[1, 4]))
    with (checkpoint / WEIGHTS).open("r+b") as file:
        file.truncate(6 * 2**30)
    monkeypatch.setattr(zoo.hub.folder, "read_bytes", None)
    refused(checkpoint, "it has 6442450944 bytes, more than its header names")


def test_a_file_is_hashed_piece_by_piece(checkpoint, monkeypatch):
    monkeypatch.setattr(zoo.hub.folder, "read_bytes", None)
    assert zoo.hub.folder.verify(checkpoint)["class_path"]
    with (checkpoint / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(CheckpointError, match="its SHA-256 is not the one"):
        zoo.hub.folder.verify(checkpoint)


def test_what_a_module_refuses_of_its_weights_says_in_which_checkpoint(tmp_path):
    folder = store.save(MADE(shape=[1, 2, 2], hidden=4), tmp_path / "made-tiny")
    tensors = load_file(folder / WEIGHTS)
    tensors["net.orderings"].zero_()
    save_file(tensors, folder / WEIGHTS)
    rehash(folder)
    refused(folder, f"{folder}: .*net.orderings must be a permutation")


# -- the header ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [MOST_SIZES + 1, 65, 100, 100_000])
def test_shapes_of_too_many_sizes(checkpoint, monkeypatch, length):
    with_header(checkpoint, lambda header: header["net.hidden.bias"].update(shape=[1] * (length - 1) + [4]))
    monkeypatch.setattr("safetensors.torch.load", None)  # is not asked
    refused(checkpoint, rf"model\.safetensors.*at most {MOST_SIZES} sizes")


def test_more_tensors_than_any_model_has(checkpoint):
    entry = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    with_header(checkpoint, lambda header: header.update({f"x{i}": entry for i in range(MOST_TENSORS)}))
    refused(checkpoint, "at most 4096 are accepted")


def test_tensors_that_share_their_bytes_are_no_larger_than_the_file(checkpoint):
    def edit(header: dict) -> None:
        entry = max((each for name, each in header.items() if name != "__metadata__"), key=lambda each: each["shape"])
        header.update({f"x{i}": entry for i in range(2000)})

    with_header(checkpoint, edit)
    refused(checkpoint, "more numbers than its")


def test_the_header_tells_the_shapes(checkpoint, model):
    packed = {key: len(shape) == 1 for key, shape in shapes_of(checkpoint / WEIGHTS, 2**20).items()}
    assert packed.keys() == model.state_dict().keys()


def test_a_panic_of_the_library_is_a_sentence(checkpoint, monkeypatch):
    class PanicException(BaseException):
        pass

    def panic(data: bytes) -> None:
        raise PanicException("index out of bounds\nat lib.rs")

    monkeypatch.setattr("safetensors.torch.load", panic)
    refused(checkpoint, "not a readable safetensors file: index out of bounds at lib.rs")


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), OverflowError("big"), MemoryError("full")])
def test_whatever_a_constructor_raises_is_a_sentence(checkpoint, monkeypatch, error):
    def fail(self, *_, **__):
        raise error

    monkeypatch.setattr(PixelCNN, "check_network", fail, raising=False)
    monkeypatch.setattr("zoo.autoregressive.pixelcnn.PixelCNNNet", fail, raising=False)
    monkeypatch.setattr("zoo.hub.building.bounded", fail)
    refused(checkpoint, "PixelCNN cannot be built with")


# -- config.json --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"results": [RESULT] * 1001}, "results must be a list of at most 1000"),
        ({"notes": ["x"] * 1001}, "notes must be a list of at most 1000"),
        ({"notes": ["x" * 10_001]}, "notes must be a list"),
        ({"results": [RESULT | {"unit": "u" * 201}]}, "unit must be a short string"),
        ({"results": [RESULT | {"dataset": "u" * 201}]}, "dataset must be a short string"),
        ({"recipe": "r" * 201}, "recipe must be a short string"),
        ({"training": {"minutes": 10**400}}, "holds"),
        (
            {"reference": {"metric": "nats", "value": 1, "source": "s", "also": [{"value": 1}] * 1001}},
            "also must be a list of at most 1000",
        ),
    ],
)
def test_lists_and_texts_without_end(checkpoint, edit, words):
    write_config(checkpoint, read_config(checkpoint) | edit)
    refused(checkpoint, words)


EVIL = "a\x1b[2J\x9b31m\u202eb <script>x</script> ![p](https://example.org/p) | c\n\n# d"


@pytest.fixture
def evil(checkpoint):
    """A checkpoint all of whose words are such that a terminal or a browser would obey them."""
    source = {"metric": "nats", "value": 1, "source": EVIL, "protocol": EVIL, "unit": EVIL}
    training = {"hardware": EVIL, "minutes": 1.0, "torch": EVIL, "from": {"name": EVIL, "sha256": {"a": EVIL}}}
    data = {"class_path": "zoo.data.Table", "init_args": {"train": EVIL, "test": "x"}, "title": EVIL, "hub_id": EVIL}
    result = RESULT | {"unit": EVIL, "dataset": "Table", "protocol": EVIL, "split": EVIL}
    also = {"also": [{"value": 2, "protocol": EVIL}], "best": {"value": 0, "source": EVIL}}
    words = {"data": data, "recipe": EVIL, "notes": [EVIL], "training": training}
    words |= {"reference": source | also, "results": [result]}
    write_config(checkpoint, read_config(checkpoint) | words)
    return checkpoint


def test_no_word_of_a_stranger_reaches_the_terminal_as_it_is(evil, monkeypatch, capsys):
    from zoo.commands import measuring
    from zoo.hub.config import read_config as checked
    from zoo.results import results_of

    config = checked(evil)
    monkeypatch.setattr(tables, "bundled", lambda: {"pixelcnn-evil": config})
    list_checkpoints()
    list_checkpoints(json=True)
    (result,) = results_of(config)
    print(measuring._report(f"./{EVIL}", result, config))
    print(card.render(config, "x"))
    printed = capsys.readouterr().out
    assert plain(printed) == printed
    assert "\\u001b" in printed


def test_a_card_and_a_table_make_nothing_of_words(evil):
    from zoo.hub.config import read_config as checked

    body = card.render(checked(evil), "x").partition("\n---\n")[2]
    for text in (body, tables.results_table({"pixelcnn-evil": checked(evil)})):
        assert not re.search(r"(?<!\\)(<script|\]\(https://example)", text)
        assert not re.search(r"^# d", text, re.M)
        for row in text.splitlines():
            if row.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", row)) in (8, 9), row


def test_arguments_of_a_model_keep_their_words(checkpoint):
    """A vocabulary may hold any characters."""
    from zoo.hub.config import read_config as checked

    write_config(checkpoint, read_config(checkpoint) | {"init_args": {"words": ["\x1b", "\u200b"]}})
    assert checked(checkpoint)["init_args"] == {"words": ["\x1b", "\u200b"]}


# -- many ---------------------------------------------------------------------------------------------------------


def attempt(case) -> str:
    """How a case ended."""
    try:
        case()
    except ZooError as error:
        said = str(error)
        return "refused" if len(said) < 500 and said.isprintable() else f"said {said!a}"
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return "worked"


@pytest.mark.slow
def test_damaged_folders(tmp_path, monkeypatch):
    """Some of those that `tests/attack/run.py` tries by the thousand."""
    monkeypatch.syspath_prepend(TESTS / "attack")
    import checkpoints

    ended, start = [], len(checkpoints.NAMED)
    for i, (said, case) in enumerate(checkpoints.cases(7, start + 60, tmp_path)):
        if i >= start:  # before are the named sizes
            ended.append((said, attempt(case)))
    faults = [(said, how) for said, how in ended if how not in ("worked", "refused")]
    assert not faults
    assert len(ended) == 60
    assert {how for _, how in ended} == {"worked", "refused"}
    assert [said for said, _ in checkpoints.cases(7, start + 60, tmp_path)][start:] == [said for said, _ in ended]
