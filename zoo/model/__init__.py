"""The contract that every model in the zoo keeps."""

from zoo.model.base import Model
from zoo.model.generative import GenerativeModel
from zoo.model.measurement import Measurement

__all__ = ["GenerativeModel", "Measurement", "Model"]
