"""A stranger's words are shown and not obeyed: by a terminal, in Markdown, and in errors, which end."""

import json
import pickle

import pytest

from zoo.errors import CheckpointError, ZooError, literal, one_line, plain, refusing, show


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\u001b[2J"),
        ("\x9b31m", "\\u009b31m"),
        ("a\rb\x00\x08\x7f", "a\\rb\\u0000\\b\\u007f"),
        ("a\u202eb\u2066c\u200ed", "a\\u202eb\\u2066c\\u200ed"),
        ("\u2028\u2029\ufeff\u200b", "\\u2028\\u2029\\ufeff\\u200b"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\udb40\\udc41"),
        ("a\tb\nc", "a\tb\nc"),
        (
            "≤ 3.02 ± 0.01, Gödel, \u0645\u06cc\u200c\u062e, 👩\u200d🔬",
            "≤ 3.02 ± 0.01, Gödel, \u0645\u06cc\u200c\u062e, 👩\u200d🔬",
        ),
    ],
)
def test_control_characters_are_written_out(text, shown):
    assert plain(text) == shown
    assert plain(shown) == shown


def test_json_that_is_written_out_is_the_same_json():
    value = {"a\u202e": "\x9b\x1b\ud800 ü"}
    assert json.loads(plain(json.dumps(value, ensure_ascii=False))) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("[x](https://example.org)", r"\[x\](https://example.org)"),
        ("![x](y.png)", r"!\[x\](y.png)"),
        ("[x][y] [y]: z", r"\[x\]\[y\] \[y\]: z"),
        ("uniform on [-1, 1], a  [0, 256)\n", r"uniform on \[-1, 1\], a \[0, 256)"),
        ("a\n\n# title\x1b", r"a # title\\u001b"),
        ("1.9 times the images\nof one", "1.9 times the images of one"),
        ("see `tests/[x](y)`", "see `tests/[x](y)`"),
        ("-41.25 nats", "-41.25 nats"),
        ("# title", r"\# title"),
        ("- [x] done", r"\- \[x\] done"),
        ("1. first", r"1\. first"),
        (" \n ~~~ fence", r"\~~~ fence"),
        ("---", r"\---"),
        ("``` `<b>` ```", r"` `\<b\>` `"),
        (r"\`<b>`", r"\\`<b>`"),
        ("a ` b", r"a \` b"),
    ],
)
def test_markdown_makes_nothing_of_words(text, words):
    assert literal(text) == words


def test_a_sentence_ends_and_stays_on_its_line():
    message = str(ZooError(f"The thing \x1b[1m is\n\t {'long ' * 1000}: do this."))
    assert len(message) < 500
    assert message.isprintable()
    assert message.startswith("The thing \\u001b[1m is long")
    assert message.endswith("long : do this.")
    assert str(ZooError("Short.")) == "Short."
    assert str(pickle.loads(pickle.dumps(CheckpointError("Short.")))) == "Short."


def test_what_cannot_be_shown_is_named():
    assert show(10**5000) == "<int>"
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert show(nested) == "<list>"
    assert one_line(ValueError("a\x1b\nb.")) == "a\\u001b b"


class PanicException(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize(
    "error", [PanicException("at the disco"), RecursionError("deep"), MemoryError(), KeyError("k")]
)
def test_a_librarys_exceptions_become_ours(error):
    with pytest.raises(CheckpointError, match="cannot be read: "), refusing("x cannot be read"):
        raise error


def test_what_is_no_failure_passes():
    for error in (KeyboardInterrupt(), SystemExit(1), CheckpointError("Ours.")):
        with pytest.raises(type(error)) as caught, refusing("x cannot be read"):
            raise error
        assert caught.value is error
