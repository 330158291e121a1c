"""What a checkpoint is for and where it ends, in sentences for its card, by the kind of its numbers and data.

Nothing here is about one checkpoint; what is, stands in its notes.
"""

from __future__ import annotations

from zoo.hub.config import spec_of, title_of
from zoo.references import headline
from zoo.results import Config, results_of

# What is known of the licence of data, and what else a user of them should know: each card of a model of them says it.
LICENCES = {
    "CIFAR10": "their authors state no licence",
    "MNIST": "CC BY-SA 3.0, as TensorFlow's documentation has it",
    "FashionMNIST": "MIT",
    "Digits": "CC BY 4.0, as the UCI repository has it",
    "BreastCancer": "CC BY 4.0, as the UCI repository has it",
    "AnimeFaces": "the data state none",
}
CAUTIONS = {
    "CIFAR10": "CIFAR-10 was taken from 80 Million Tiny Images, pictures that search words found on the web, which "
    "those who collected them withdrew in 2020 for offensive images and labels; the ten classes were labelled anew, "
    "and what is biased in the choice of pictures is biased in samples.",
    "MNIST": "The digits were written by employees of the Census Bureau and high-school students of the United States: "
    "they are no sample of how people write.",
    "BreastCancer": "The table has 569 biopsies of one hospital: rows that are drawn are nobody's, and nothing medical "
    "follows from them.",
    "AnimeFaces": "The faces come without a word on who drew them or what may be done with them: a sample may "
    "be close to somebody's drawing, and nothing here gives leave to use it as one's own.",
}


def intended_use(config: Config) -> str:
    """One paragraph: what the checkpoint is meant for, and what not."""
    spec = spec_of(config)
    uses = ["to study and teach this family of models", "to hold others against its numbers"]
    if config.get("draws", True):
        uses.insert(0, "to draw samples")
    uses.append("to start training on other data")
    what = "pictures for people to take as real" if spec and spec.kind == "image" else "data to be taken as measured"
    return f"It is meant {', '.join(uses[:-1])}, and {uses[-1]}; not for {what}, nor for decisions about anybody."


def limits(config: Config) -> list[str]:
    """What the numbers do not say, what was not tested, and what is known of the data."""
    spec, result = spec_of(config), headline(config)
    found = results_of(config)
    sentences = []
    if any(each.metric.name in ("bits_per_dim", "nats") for each in found):
        sentences.append(
            "A likelihood says how many bits held-out data would take, not how good samples look: of two models that "
            "with the better one may draw the worse samples."
        )
    if result and result.kind in ("upper", "lower"):
        sentences.append("What is given is a bound: the exact likelihood is better by an amount that is not known.")
    if any(each.metric.name in ("fid", "kid") for each in found):
        sentences.append(
            "FID and KID compare features of a network that was trained on photographs of ImageNet; what it does not "
            "see they do not count, and numbers of other counts of images, resizings or references are others."
        )
    if any(each.metric.name == "kl" for each in found):
        sentences.append("It was fitted to a density in the plane, and says nothing of more dimensions.")
    if config["class_path"].startswith("zoo.adversarial."):
        sentences.append(
            "It has no likelihood, so nothing tells how probable it finds an image; what of the data it never draws, "
            "recall shows in part."
        )
    name = ((config.get("data") or {}).get("class_path") or "").rpartition(".")[2]
    if spec and spec.kind in ("image", "video"):
        height, width = spec.shape[-2:]
        sentences.append(f"It knows images of {width} x {height} pixels and no other size.")
    if name == "Points":
        sentences.append("Its data are drawn by a formula, so no licence and nobody's privacy is concerned.")
    elif config.get("data"):
        sentences.append("Whether it draws copies of training data has not been tested.")
        if name in CAUTIONS:
            sentences.append(CAUTIONS[name])
        sentences.append(f"Licence of the training data ({title_of(config)}): {LICENCES.get(name, 'unknown')}.")
    else:
        sentences.append("What it was trained on is not recorded, and so neither is the licence of that.")
    return sentences
