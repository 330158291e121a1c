"""A stranger's words stay words: in a card, in a table, in a notebook."""

from __future__ import annotations

import json
import re

import pytest
import torch
from PIL import Image

import zoo
from zoo.autoregressive import PixelCNN
from zoo.hub import card, notebook, store
from zoo.hub.config import read_config, write_config

EVIL = '<img src=x onerror="alert(1)"> ![t](http://t.example) [l](javascript:1) \x1b[2J \u202e `a` ``` | # --- ${name}'


@pytest.fixture
def evil(tmp_path):
    """A checkpoint whose config.json says the same wherever it may say anything."""
    model = PixelCNN(shape=[1, 4, 4], levels=4, channels=2, blocks=1)
    folder = store.save(model, tmp_path / "pixelcnn-evil", notes=[EVIL, f"# {EVIL}"], recipe=EVIL)
    config = read_config(folder)
    result = {"metric": EVIL, "kind": "exact", "value": 1.0, "split": EVIL, "dataset": EVIL, "protocol": EVIL}
    config |= {
        "data": {"class_path": "zoo.data.Digits", "init_args": {"name": EVIL}, "title": EVIL, "hub_id": EVIL},
        "training": {"hardware": EVIL, "torch": EVIL, "minutes": 3, "from": {"name": EVIL, "sha256": {EVIL: EVIL}}},
        "reference": {"metric": EVIL, "value": 2.0, "source": EVIL, "best": {"value": 1.5, "source": EVIL}},
        "results": [{**result, "unit": EVIL, "n": 5}, {**result, "metric": "nats", "unit": EVIL}],
        "papers": [EVIL, "made"],
    }
    write_config(folder, config)
    return folder


def test_a_strangers_card_has_no_markup_of_theirs(evil):
    text = card.render(read_config(evil), EVIL)
    body = text.split("\n---\n", 1)[1]
    assert all(each.isprintable() or each == "\n" for each in body)
    fences = re.split(r"^```.*$", body, flags=re.MULTILINE)
    assert len(fences) % 2 == 1, "each fence has an end"
    for outside in fences[::2]:
        for line in outside.splitlines():
            bare = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", line))
            own = bare.replace("![](samples.png)", "").replace("![samples](samples.png)", "")
            own = re.sub(r"\[arXiv [\d.]+\]\(https://arxiv\.org/abs/[\d.]+\)", "", own)
            assert "<" not in own, line
            assert "[" not in own, line
    code = next(part for part in fences[1::2] if "import zoo" in part)
    compile(code, "card", "exec")
    assert "recipes/<" not in text
    assert "made" in text


def test_a_notebook_shows_a_strangers_words_as_words(evil):
    html = notebook.page(evil, EVIL)
    assert re.findall(r"<(\w+)", html) == ["div", "div", "b", "br", "br", "br"]
    assert "onerror=&quot;" in html
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_a_loaded_model_shows_itself_in_a_notebook(tmp_path):
    model = zoo.load("maf-moons")
    html = model._repr_html_()
    for stated in ("<b>maf-moons</b>", "MAF, flows, trained on points", "2.39 ± 0.01 nats, exact", "14,085 parameters"):
        assert stated in html
    assert '<img alt="samples" width="160" src="data:image/png;base64,' in html
    assert "checkpoints/maf-moons/README.md" in html
    assert len(repr(model)) < 10_000
    assert type(model)(shape=[2])._repr_html_() is None, "what was not loaded shows its layers"


def test_a_page_of_a_folder_without_a_card_or_with_an_odd_picture(tmp_path):
    torch.manual_seed(0)
    folder = store.save(PixelCNN(shape=[1, 4, 4], levels=4, channels=2, blocks=1), tmp_path / "pixelcnn-tiny")
    (folder / "samples.png").write_bytes(b"<script>")
    model = zoo.load(folder)
    assert "<img" not in model._repr_html_()
    for side, shown in ((64, True), (20_000, False)):  # a bomb: 20 KB that a browser would unpack to 400 MB
        Image.new("1", (side, side)).save(folder / "samples.png")
        assert ("<img" in model._repr_html_()) is shown
    assert "card" not in model._repr_html_()
    (folder / "config.json").write_text(json.dumps({"format": 2}))
    assert model._repr_html_() is None, "and the layers are shown"
