"""Data sets: one LightningDataModule each."""

from zoo.data.anime_faces import AnimeFaces
from zoo.data.cancer import BreastCancer
from zoo.data.cifar import CIFAR10
from zoo.data.digits import Digits
from zoo.data.folder import ImageFolder
from zoo.data.hub import HubDataset
from zoo.data.images import ImageData
from zoo.data.loader import TensorLoader
from zoo.data.mnist import MNIST, FashionMNIST
from zoo.data.points import Points
from zoo.data.table import Table
from zoo.data.tensors import TensorData

__all__ = [
    "CIFAR10",
    "MNIST",
    "AnimeFaces",
    "BreastCancer",
    "Digits",
    "FashionMNIST",
    "HubDataset",
    "ImageData",
    "ImageFolder",
    "Points",
    "Table",
    "TensorData",
    "TensorLoader",
]
