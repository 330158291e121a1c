"""The pages are true: every block of README.md and docs/*.md runs, links lead somewhere, tables are what is made."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pages
import pytest

from zoo import cli
from zoo.hub import finding, tables

ROOT, PAGES = pages.ROOT, pages.PAGES
BLOCKS = [block for page in PAGES for block in pages.blocks(page)]
COMMANDS = [(block, words) for block in BLOCKS if block.language == "sh" for words in pages.commands(block)]


def by_name(value: object) -> str:
    return value.name if isinstance(value, Path) else shlex.join(value) if isinstance(value, list) else str(value)


def test_there_is_something_to_run():
    assert len(COMMANDS) > 30
    assert {block.language for block in BLOCKS} >= {"sh", "python"}


@pytest.mark.parametrize("block", BLOCKS, ids=by_name)
def test_no_block_escapes(block: pages.Block):
    """Each is of a language that is run, or has a test of its own, which names its page."""
    assert block.language in pages.LANGUAGES, f"{block} is {block.language or 'of no language'}: nothing runs it"
    if block.language == "text":
        assert not re.search(r"^\s*(\$|>>>|zoo |lightning |import )", block.text, re.MULTILINE), f"{block} is to be run"
    if block.elsewhere:
        test = ROOT / block.elsewhere
        assert test.is_file(), f"{block} is run by {block.elsewhere}, which is not there"
        assert block.page.name in test.read_text(encoding="utf-8"), f"{block.elsewhere} does not know {block.page.name}"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_every_fence_is_seen(page: Path):
    fences = re.findall(r"^\s*(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(pages.blocks(page)), "a fence that is not closed, or of tildes"


@pytest.mark.parametrize(("block", "words"), COMMANDS, ids=by_name)
def test_a_command_is_known(block: pages.Block, words: list[str], capsys: pytest.CaptureFixture[str]):
    """Quick, and of each command: it parses. `test_a_page_runs` runs it."""
    own = pages.ours(words)
    if own is None:
        pages.check(words, str(block))
    elif own[1] not in cli.TRAINING:
        argv = pages.named(own)[1:]
        if argv[-1] == "--help":
            with pytest.raises(SystemExit) as stopped:
                cli._parsed(argv)
            assert stopped.value.code == 0
        else:
            assert callable(cli._parsed(argv)["function"])
    else:
        recipes = [word for word in pages.named(own) if word.endswith(".yaml")]
        assert all((ROOT / recipe).is_file() for recipe in recipes)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_a_page_runs(page: Path, tmp_path: Path):
    pages.in_its_own_process(page, tmp_path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("```sh\nzoo sample no-such-model\n```\n", "ended with 1"),
        ("```sh\nzoo lits\n```\n", "ended with 2"),
        ("```sh\nrm -rf /\n```\n", "what is `rm -rf /`"),
        ("```sh\nmake coffee\n```\n", "does not run"),
        ("```sh\nzoo list | head\n```\n", "one to a line"),
        ("```python\nimport zoo\nzoo.nonesuch\n```\n", "no attribute 'nonesuch'"),
        ("1. a\n\n   ```python\n   1 / 0\n   ```\n", "division by zero"),
    ],
)
def test_what_is_wrong_in_a_page_fails(text: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "page.md"
    page.write_text(text)
    monkeypatch.setattr(pages, "reader", lambda *arguments: None)
    with pytest.raises(AssertionError, match=re.escape(sentence)):
        pages.run_page(page, tmp_path, monkeypatch)


LINKS = [
    (page, target)
    for page in PAGES
    for target in sorted(set(re.findall(r"\]\((?![a-z]+:)([^)]+)\)", page.read_text(encoding="utf-8"))))
]


@pytest.mark.parametrize(("page", "target"), LINKS, ids=by_name)
def test_a_link_leads_somewhere(page: Path, target: str):
    file, _, anchor = target.partition("#")
    path = page.parent / file if file else page
    assert path.exists(), f"{page.name} links to {file}, which is not there"
    if anchor:
        titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_readme():
    linked = {(page.parent / target).resolve() for page, target in LINKS if page == PAGES[0]}
    assert {page.resolve() for page in PAGES[1:]} <= linked


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_the_tables_are_made_from_the_checkpoints(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in tables.TABLES:
        table = text.partition(tables.BEGIN.format(name))[2].partition(tables.END.format(name))[0].strip()
        if table:
            made = tables.page_table(tables.bundled(), name, "" if page == PAGES[0] else "../")
            # A reader's own checkpoints, which have no recipe of their name, need not be in it.
            lines = [line for line in made.splitlines() if line in table or not _is_own(line)]
            assert table == "\n".join(lines), "run: zoo card --readme"


def _is_own(line: str) -> bool:
    name = re.search(r"checkpoints/([a-z0-9-]+)/README", line)
    return bool(name) and not (ROOT / "recipes" / f"{name[1]}.yaml").exists()


def test_each_table_is_on_a_page():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    for name in tables.TABLES:
        assert sum(tables.BEGIN.format(name) in text for text in texts) == 1, name
    assert set(finding.names()) >= set(tables.CHOSEN)


def test_the_readme_has_every_command():
    text = PAGES[0].read_text(encoding="utf-8")
    assert {words[1] for block, words in COMMANDS if block.page == PAGES[0] and words[0] == "zoo"} >= set(cli.COMMANDS)
    assert all(re.search(rf"\b{command}\b", text) for command in cli.TRAINING)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170
