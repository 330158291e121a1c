"""Time the statistics of FID, in images a second: Inception's features of CIFAR-10's images, their mean and covariance.

    python tests/benchmarks/features.py [--device cuda] [--batch 50] [--batches 4] [--root FOLDER]

- zoo: `features_of`, then mean and covariance in float64.
- torchmetrics: `FrechetInceptionDistance` with the same network, which adds to its sums after each batch.
- resize: of zoo's, the part that brings images to 299 x 299.

On a GPU the time is that of the clock, on a CPU one thread's processor time, in which other work does not
count. One batch is computed before.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from zoo import metrics
from zoo.data import CIFAR10
from zoo.metrics.inception_network import SIZE


def statistics(batches: list[Tensor], network: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F)."""
    features = metrics.features_of(batches, network, device).double()
    return features.mean(0).cpu(), torch.cov(features.T).cpu()


def of_torchmetrics(batches: list[Tensor], network: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """The same, from torchmetrics' sums."""
    fid = FrechetInceptionDistance(feature=network, input_img_size=tuple(batches[0].shape[1:])).to(device)
    for batch in batches:
        fid.update(batch.to(device), real=True)
    n, mean = fid.real_features_num_samples, fid.real_features_sum / fid.real_features_num_samples
    return mean.cpu(), ((fid.real_features_cov_sum - n * torch.outer(mean, mean)) / (n - 1)).cpu()


def resized(batches: list[Tensor], network: nn.Module, device: torch.device) -> None:
    """Each batch at Inception's size."""
    for batch in batches:
        metrics.resize(batch.to(device).float(), SIZE).sum().item()


CONTENDERS: dict[str, Callable[..., Any]] = {"zoo": statistics, "torchmetrics": of_torchmetrics, "resize": resized}


def compare(batches: list[Tensor], network: nn.Module, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Images a second of each contender, and its seconds as a multiple of zoo's."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for name in CONTENDERS:
        CONTENDERS[name](batches[:1], network, device)
    for _ in range(rounds):
        for name, work in CONTENDERS.items():
            start = clock()
            work(batches, network, device)
            times[name].append(clock() - start)
    images = sum(map(len, batches))
    return [
        {
            "contender": name,
            "images_per_second": round(images / median(own), 2),
            "ratio": round(median(a / b for a, b in zip(own, times["zoo"], strict=True)), 3),
        }
        for name, own in times.items()
    ]


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=50, help="images computed at once")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--root", help="folder of the data sets; by default ZOO_DATA or the user cache")
    options = parser.parse_args()
    device = torch.device(options.device)
    data = CIFAR10(root=options.root)
    data.prepare_data()
    data.setup("test")
    batches = list(data.test[0][: options.batch * options.batches].split(options.batch))
    network = metrics.Inception(options.root).to(device)
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "One CPU thread"
    print(f"{where}, batches of {options.batch}")
    print("contender     images/s  ratio")
    results = compare(batches, network, device, options.rounds)
    for row in results:
        print(f"{row['contender']:12}  {row['images_per_second']:8,.1f}  {row['ratio']:5.2f}")
    print(json.dumps({"device": where, "batch": options.batch, "results": results}))


if __name__ == "__main__":
    main()
