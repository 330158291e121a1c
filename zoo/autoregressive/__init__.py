"""Models that factorize a joint distribution over its components, one after the other."""

from zoo.autoregressive.darn import DARN
from zoo.autoregressive.eonade import EoNADE
from zoo.autoregressive.gated_pixelcnn import GatedPixelCNN
from zoo.autoregressive.made import MADE
from zoo.autoregressive.multiscale_pixelrnn import MultiScalePixelRNN
from zoo.autoregressive.nade import NADE
from zoo.autoregressive.pixelcnn import PixelCNN
from zoo.autoregressive.pixelcnnpp import PixelCNNPP
from zoo.autoregressive.pixelrnn import PixelRNN

__all__ = [
    "DARN",
    "MADE",
    "NADE",
    "EoNADE",
    "GatedPixelCNN",
    "MultiScalePixelRNN",
    "PixelCNN",
    "PixelCNNPP",
    "PixelRNN",
]
