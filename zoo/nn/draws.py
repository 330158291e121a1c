"""Random numbers that belong to the datum: the first of many draws are those of few, in chunks of any size.

A seed and the place of a datum tell its random numbers, on every device and whatever is drawn beside it. So
`sample(2, seed=0)` are the first two of `sample(5, seed=0)`, and the noise behind a bound does not depend on the batch
in which its datum is measured. The streams are those of Philox (Salmon et al. 2011, *Parallel random numbers: as easy
as 1, 2, 3*), whose key is the seed and the number of a block of data: keys that differ give streams that do not meet.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from zoo.arguments import seed_of
from zoo.errors import ZooError

MANY = 2**20  # numbers, drawn in some 10 milliseconds by one thread, from which on several draw them
BLOCK = 16  # data of one stream: a stream takes 10 microseconds to begin, as long as a thousand numbers

# Components and data drawn at once, on a CPU and on a GPU: what caches hold, and what keeps a GPU busy.
COMPONENTS = {"cpu": 2**18, "gpu": 2**22}
MOST = {"cpu": 2**14, "gpu": 2**17}


class Draws:
    """The random numbers of N data, on the CPU; each call goes on in the streams.

    Args:
        seed: 0..2^64 - 1; None for one that nobody knows.
        index: the places of the data, int64 (N,); a number N for the first N.

    Example:
        >>> Draws(0, 5).normal(3)[:2].equal(Draws(0, 2).normal(3))
        True
    """

    def __init__(self, seed: int | None, index: int | Tensor) -> None:
        seed = seed_of(seed)
        self.seed = secrets.randbits(64) if seed is None else seed
        self.index = index.cpu() if isinstance(index, Tensor) else torch.arange(index, device="cpu")
        self._begun: tuple[list[np.random.Generator], slice | Tensor] | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.index)

    def chunks(self, size: int) -> Iterator[tuple[slice, Draws]]:
        """The numbers of `size` data after another, of which none has been drawn, each with its place among the N."""
        for start in range(0, len(self), size):
            part = slice(start, min(start + size, len(self)))
            yield part, Draws(self.seed, self.index[part])

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(N, *shape), uniform on [0, 1), in float32 or float64."""
        kind = np.float64 if dtype == torch.float64 else np.float32
        return self._drawn(lambda stream, out: stream.random(out=out, dtype=kind), shape, kind)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 (N, *shape)."""
        return self._drawn(lambda stream, out: stream.standard_normal(out=out, dtype=np.float32), shape, np.float32)

    def integers(self, high: int, *shape: int) -> Tensor:
        """int64 (N, *shape), each of 0..high-1 as likely as another."""
        return (self.uniform(*shape, dtype=torch.float64) * high).long()

    def choice(self, weights: Tensor) -> Tensor:
        """int64 (N,): k with a probability proportional to weights (K,), or to the row of each datum, (N, K)."""
        return choice(weights, self.uniform(dtype=torch.float64))

    def _drawn(
        self, fill: Callable[[np.random.Generator, np.ndarray], object], shape: tuple[int, ...], kind: type
    ) -> Tensor:
        streams, rows = self._streams()
        out = np.empty((len(streams), BLOCK, *shape), kind)
        if out.size < MANY:
            for stream, block in zip(streams, out, strict=True):
                fill(stream, block)
        else:  # NumPy lets other threads run while it draws, and each stream has numbers of its own
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                deque(pool.map(fill, streams, out), maxlen=0)
        return torch.from_numpy(out).flatten(0, 1)[rows]

    def _streams(self) -> tuple[list[np.random.Generator], slice | Tensor]:
        """The stream of each block, and where the data are in the blocks one after another."""
        if self._begun is None:
            blocks, which = (self.index // BLOCK).unique(return_inverse=True)
            keys = (np.array([self.seed, block], np.uint64) for block in blocks.tolist())
            rows: slice | Tensor = which * BLOCK + self.index % BLOCK
            first = int(rows[0]) if len(rows) else 0
            if torch.equal(rows, torch.arange(first, first + len(rows), device="cpu")):
                rows = slice(first, first + len(rows))  # no copy, as nearly always
            self._begun = [np.random.Generator(np.random.Philox(key=key)) for key in keys], rows
        return self._begun


def choice(weights: Tensor, uniform: Tensor) -> Tensor:
    """int64 (N,) on the CPU: what falls to uniform numbers (N,) where k comes as often as weights (K,) or (N, K) say.

    Raises:
        ZooError: weights are negative or not finite, or all of them are zero.
    """
    cumulative = weights.detach().double().cpu().cumsum(-1)
    total = cumulative[..., -1]
    if not bool((weights >= 0).all() & (total > 0).all() & total.isfinite().all()):
        raise ZooError("The model draws by weights that are zero, negative or not finite: it is damaged.")
    return (cumulative[..., :-1] <= (uniform * total)[:, None]).sum(1)


def chunk_size(dims: int, device: torch.device) -> int:
    """How many data of `dims` components are drawn at once, where nobody says it: whole blocks, if there is room."""
    kind = "cpu" if device.type == "cpu" else "gpu"
    size = max(1, min(COMPONENTS[kind] // dims, MOST[kind]))
    return size // BLOCK * BLOCK or size
