"""What happens around training: averaged weights, compilation, graphs, the bar, pictures, and the record of a run."""

from zoo.callbacks.cuda_graphs import CUDAGraphs
from zoo.callbacks.ema import EMA
from zoo.callbacks.pictures import SampleGrid
from zoo.callbacks.run import ProgressBar, RunRecord, SaveLast
from zoo.callbacks.speed import Compile, TimeBudget

__all__ = ["EMA", "CUDAGraphs", "Compile", "ProgressBar", "RunRecord", "SampleGrid", "SaveLast", "TimeBudget"]
