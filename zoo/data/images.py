"""What data sets of images share: their levels, and binarization."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.batch import Batch
from zoo.data.tensors import TensorData


class ImageData(TensorData):
    """Images in memory, uint8 (N, C, H, W) with values 0..levels-1, of 256 levels unless a data set says otherwise.

    What a data set gives and gets is in the contract of `TensorData`.

    Args:
        root: folder of the data sets; default $ZOO_DATA, else `zoo/data` in the user's cache folder.
        batch_size: images in a training batch of one device.
        validation: number of training images, the last ones, held out for validation; default a tenth.
        eval_batch_size: most images in a validation or test batch; default `batch_size`.
        seed: of the order in which training images come; each epoch has its own.
        download: whether to fetch from the official source what is absent.
    """

    shape: tuple[int, int, int]
    levels: int = 256
    flip: bool = False  # whether training images are mirrored

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """In training, where `flip` says so, mirror images at random, on their device and from its global RNG."""
        if self.flip and self._training():
            mirrored = torch.rand(batch.size, 1, 1, 1, device=batch.x.device, dtype=torch.float32) < 0.5
            batch = batch._replace(x=torch.where(mirrored, batch.x.flip(3), batch.x))
        return batch


def binarize(images: Tensor) -> Tensor:
    """Draw each pixel, 0 or 1, with p = intensity / 255, from the global RNG of the images' device."""
    # rand is in [0, 1): intensity 0 always gives 0, and 255 always 1.
    return (torch.rand(images.shape, device=images.device, dtype=torch.float32) * 255 < images).to(torch.uint8)


def binarize_once(images: Tensor, seed: int = 0) -> Tensor:
    """Draw each pixel, 0 or 1, with p = intensity / 255, the same on every machine and in every version.

    The uniform numbers are NumPy's `RandomState(seed).random_sample(images.shape)`, a stream that NumPy
    guarantees never to change; a pixel is 1 where 255 times its number is below its intensity.
    """
    uniform = np.random.RandomState(seed).random_sample(tuple(images.shape))
    return torch.from_numpy((uniform * 255 < images.numpy()).astype(np.uint8))
