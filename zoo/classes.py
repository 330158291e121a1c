"""What classes are called: their paths in a configuration, and the titles of data sets."""

from __future__ import annotations

import importlib

# Where a published class is now: checkpoints, runs and recipes of before name it as it was called then.
CLASSES = {"zoo.flows.FlowVAE": "zoo.latent.FlowVAE"}

# What published arguments of a class are called now.
ARGUMENTS = {
    "zoo.adversarial.GAN": {"latents": "latent_dim"},
    "zoo.adversarial.LAPGAN": {"latents": "latent_dim"},
    "zoo.autoregressive.DARN": {"latents": "latent_dim"},
    "zoo.latent.FlowVAE": {"latents": "latent_dim"},
}


def class_path_of(cls: type) -> str:
    """The shortest dotted name that imports `cls`: `zoo.autoregressive.PixelCNN`, without its file's name."""
    module = cls.__module__
    if module.startswith("zoo."):
        parent = module.rpartition(".")[0]
        while "." in parent and getattr(importlib.import_module(parent), cls.__name__, None) is cls:
            module, parent = parent, parent.rpartition(".")[0]
    return f"{module}.{cls.__qualname__}"


# What people and the Hub call the data sets whose class has another name.
TITLES = {
    "BreastCancer": "breast cancer",
    "FashionMNIST": "Fashion-MNIST",
    "CIFAR10": "CIFAR-10",
    "Digits": "digits",
    "Points": "points",
    "Table": "the table",
}
HUB_DATASETS = {
    "MNIST": "ylecun/mnist",
    "FashionMNIST": "zalando-datasets/fashion_mnist",
    "CIFAR10": "uoft-cs/cifar10",
}


def dataset_title(name: str) -> str:
    """How people write the data set of this class: `CIFAR10` is CIFAR-10."""
    return TITLES.get(name, name)
