"""What cards cite is what the families' files cite, and each family cites something."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from zoo.adversarial import GAN
from zoo.hub import finding, store
from zoo.hub.building import resolve
from zoo.hub.config import read_config
from zoo.model import Model
from zoo.papers import PAPERS, Paper, papers_of
from zoo.training.families import families

ZOO = Path(__file__).resolve().parents[1] / "zoo"
SOURCES = {path: path.read_text(encoding="utf-8") for path in ZOO.rglob("*.py") if path.name != "papers.py"}
NOBODYS = {"Uniform"}


@pytest.mark.parametrize("key", PAPERS)
def test_a_paper_is_the_one_that_a_file_of_the_zoo_cites(key: str):
    paper = PAPERS[key]
    family = paper.authors[0].partition(",")[0].removeprefix("van den ").replace("ń", "n")
    about = [text.replace("ń", "n") for text in SOURCES.values() if (paper.arxiv or str(paper.year)) in text]
    assert any(family in text or f'"{key}"' in text for text in about), "its number stands where its model is"
    assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv) or not paper.arxiv
    assert paper.arxiv or paper.venue
    if paper.arxiv:
        century = 2000 + int(paper.arxiv[:2])
        assert century <= paper.year <= century + 2, "published in the year of the preprint or soon after"
        assert paper.link == f"https://arxiv.org/abs/{paper.arxiv}"


@pytest.mark.parametrize("name", finding.names())
def test_a_bundled_checkpoint_cites_what_its_model_does(name: str):
    config = read_config(finding.find(name))
    with torch.device("meta"):
        model = resolve(config["class_path"], None)(**config["init_args"])
    assert config["papers"] == list(model.papers)
    assert set(model.papers) <= set(PAPERS)
    assert model.papers or config["class_path"].rpartition(".")[2] in {*NOBODYS, "GaussianMixture"}


def test_every_family_cites_a_paper():
    for cls in families().values():
        assert cls.papers or cls.__name__ in NOBODYS, cls
        assert isinstance(cls.papers, property) or set(cls.papers) <= set(PAPERS)
    assert Model.papers == ()


@pytest.mark.parametrize(
    ("arguments", "papers"),
    [
        ({}, ("dcgan", "gan")),
        ({"network": "mlp"}, ("gan",)),
        ({"distance": "pearson"}, ("f-gan",)),
        ({"distance": "wasserstein", "clip": 0.01}, ("wgan",)),
        ({"distance": "wasserstein", "penalty": 10.0}, ("wgan-gp",)),
        ({"distance": "energy", "features": 4}, ("cramer-gan",)),
        ({"distance": "mmd", "features": 4}, ("mmd-gan",)),
        ({"distance": "sinkhorn", "features": 4}, ("sinkhorn-gan",)),
        ({"distance": "mini_batch_energy", "features": 4}, ("ot-gan",)),
        ({"distance": "hinge", "critic_norm": "spectral", "network": "resnet"}, ("sngan",)),
        ({"distance": "hinge", "critic_norm": "spectral", "network": "resnet", "classes": 3}, ("biggan", "sngan")),
    ],
)
def test_a_gan_is_the_paper_that_its_distance_says(arguments, papers):
    with torch.device("meta"):
        assert GAN(shape=[1, 8, 8], levels=17, channels=4, **arguments).papers == papers


def test_it_is_saved_with_a_checkpoint(tmp_path: Path):
    model = GAN(shape=[2], levels=None, network="mlp", channels=2, latent_dim=2)
    config = read_config(store.save(model, tmp_path / "gan-points"))
    assert config["papers"] == ["gan"]


def test_bibtex_and_the_line_of_a_card():
    paper = Paper("On A", ("van den One, Ann", "Two, Bo", "Three, Cy"), 2016, "ICML", "1601.00001")
    assert (
        paper.cited
        == "van den One, Two and Three, *On A*, ICML 2016, [arXiv 1601.00001](https://arxiv.org/abs/1601.00001)"
    )
    assert paper.bibtex("a") == (
        "@inproceedings{a,\n  title = {{On A}},\n  author = {van den One, Ann and Two, Bo and Three, Cy},\n"
        "  year = {2016},\n  booktitle = {ICML},\n  eprint = {1601.00001},\n  archivePrefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/1601.00001},\n}"
    )
    assert Paper("B", ("One, A",), 2001).bibtex("b").startswith("@misc{b,\n  title = {{B}},")
    assert Paper("B", ("One, A",), 2001).cited == "One, *B*, 2001"
    assert papers_of(["made", "no such key", "maf"]) == {"made": PAPERS["made"], "maf": PAPERS["maf"]}
    assert papers_of(None) == {}


def test_it_needs_no_torch():
    code = "import sys, zoo.papers, zoo.hub.card; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ZOO.parent, timeout=60)
