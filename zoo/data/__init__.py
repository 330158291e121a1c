"""Data sets: one LightningDataModule each, and `DataSpec`, what a model needs to know of its data."""

from zoo.data.cifar import CIFAR10
from zoo.data.digits import Digits
from zoo.data.images import ImageData
from zoo.data.loader import TensorLoader
from zoo.data.mnist import MNIST, FashionMNIST
from zoo.data.spec import DataSpec
from zoo.data.table import Table

__all__ = ["CIFAR10", "MNIST", "DataSpec", "Digits", "FashionMNIST", "ImageData", "Table", "TensorLoader"]
