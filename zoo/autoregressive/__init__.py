"""Models that factorize a joint distribution over its components, one after the other."""

from zoo.autoregressive.darn import DARN
from zoo.autoregressive.eonade import EoNADE
from zoo.autoregressive.made import MADE
from zoo.autoregressive.nade import NADE
from zoo.autoregressive.pixelcnn import PixelCNN

__all__ = ["DARN", "MADE", "NADE", "EoNADE", "PixelCNN"]
