"""Measure training speed, images/s, of adversarial recipes against a plain loop, in one run.

    python tests/benchmarks/adversarial.py --recipe recipes/dcgan-cifar10.yaml [--steps 100] [OPTIONS OF zoo fit]

Ours is `zoo fit` as the recipe has it: Lightning, its precision, its compilation, its averaged weights. The plain loop
is that of a textbook, with the same networks, losses, turns and batch size: two Adams, eager, float32, no Lightning and
no averaging. It draws samples once for a step of the critic and the step of the generator after it, where ours draws
new ones. Float32 is what PyTorch does unasked: on GPUs that have it, convolutions are in TF32, other products are not.
Both take turns in one process, so many steps of the generator each, and the ratio is the median over the rounds.
Images are those of batches of data; they are random ones in memory, so that no data set is needed.
Options that it does not know go on to `zoo fit`:

    python tests/benchmarks/adversarial.py --recipe recipes/gan-mnist.yaml --trainer.accelerator cpu --steps 10
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from scaling import hardware, now, watched
from torch import Tensor

from zoo.adversarial import GAN
from zoo.batch import Batch
from zoo.data.images import ImageData


class RandomImages(ImageData):
    """Images and labels that mean nothing.

    Args:
        shape: (C, H, W).
        levels: number of values.
        classes: number of labels.
        batch_size: images in a batch.
    """

    title = "random images"

    def __init__(self, shape: list[int], levels: int = 256, classes: int = 10, batch_size: int = 64) -> None:
        super().__init__(batch_size=batch_size, validation=1)
        self.shape, self.levels, self.classes = tuple(shape), levels, classes

    def prepare_data(self) -> None:
        """Nothing to download."""

    def read(self, split: str) -> tuple[Tensor, Tensor]:
        """An epoch of 100 batches."""
        n = 100 * self.batch_size + 1
        images = torch.randint(self.levels, (n, *self.shape), dtype=torch.uint8)
        return images, torch.randint(max(1, self.classes), (n,))


class PlainLoop:
    """A model of the same class and size, trained as in a textbook.

    Args:
        model: of which the class and the arguments are taken, and the device.
    """

    def __init__(self, model: GAN) -> None:
        arguments = {name: value for name, value in model.hparams.items() if not name.startswith("_")}
        self.model = type(model)(**arguments).to(model.device)
        given = self.model.hparams
        betas = (given.beta1, given.beta2)
        self.generator = torch.optim.Adam(self.model.net.parameters(), given.lr, betas)
        self.critic = torch.optim.Adam(self.model.critic.parameters(), given.critic_lr or given.lr, betas)
        self.batches = 0

    def batch(self, x: Tensor, label: Tensor) -> bool:
        """Train on images (N, C, H, W) and labels (N,); whether the generator took a step."""
        model = self.model
        label = label if model.spec.classes else None
        batch = Batch(x, label)
        real, other = model.real(batch), model.fake_labels(label)
        fake = model.fake(real, batch._replace(label=other))
        if self.batches % model.generator_steps == 0:
            self._train_critic(real, fake, label, other)
        self.batches += 1
        if self.batches % model.critic_steps:
            return False
        of_real = model.critic(real, label) if model.distance.paired else None
        loss = model.distance.generator_loss(of_real, model.critic(fake, other))
        self.generator.zero_grad()
        loss.backward()
        self.generator.step()
        return True

    def _train_critic(self, real: Any, fake: Any, label: Tensor | None, other: Tensor | None) -> None:
        model = self.model
        fixed = fake.detach() if isinstance(fake, Tensor) else [part.detach() for part in fake]
        outputs = model.critic(real, label), model.critic(fixed, other)
        loss = -model.distance.value(*outputs)
        if model.penalty:
            loss = loss + model.penalty * model.gradient_penalty(real, fixed, label, *outputs)
        self.critic.zero_grad()
        loss.backward()
        self.critic.step()
        for parameter in self.critic.param_groups[0]["params"] if model.clip else ():
            parameter.data.clamp_(-model.clip, model.clip)


@contextlib.contextmanager
def plain_float32() -> Iterator[None]:
    """Products in full float32, as PyTorch does them unasked; `zoo fit` allows TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)


class Rounds(Callback):
    """Times the run and, after each of its rounds, as many steps of a plain loop; writes both into a JSON file.

    Args:
        warmup: optimizer steps before the first round.
        steps: optimizer steps of the generator in a round.
        out: the file.
    """

    def __init__(self, warmup: int, steps: int, out: str) -> None:
        self.warmup, self.steps, self.out = warmup, steps, out
        self.next, self.start, self.images = warmup, 0.0, 0
        self.ours: list[float] = []
        self.plain: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build the plain loop, and warm it up."""
        self.loop, data = PlainLoop(pl_module), trainer.datamodule.train
        self.data = data.x.to(pl_module.device), data.label.to(pl_module.device)
        self.size = trainer.datamodule.batch_size
        self._time_plain(pl_module, min(self.warmup, 10))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a round, and begin the next."""
        self.images += len(batch[0])
        if trainer.global_step != self.next:
            return
        if self.next > self.warmup:
            self.ours.append(self.images / (now(pl_module) - self.start))
            self.plain.append(self._time_plain(pl_module, self.steps))
            result = {
                "hardware": hardware(pl_module),
                "precision": str(trainer.precision),
                "batch": self.size,
                "ours": [round(speed, 1) for speed in self.ours],
                "plain": [round(speed, 1) for speed in self.plain],
            }
            Path(self.out).write_text(json.dumps(result))
        self.next += self.steps
        self.start, self.images = now(pl_module), 0

    def _time_plain(self, pl_module: LightningModule, steps: int) -> float:
        """Images/s of the plain loop."""
        images, start = 0, now(pl_module)
        with plain_float32():
            while steps:
                chosen = torch.randint(len(self.data[0]), (self.size,), device=pl_module.device)
                steps -= self.loop.batch(*(tensor[chosen] for tensor in self.data))
                images += self.size
            return images / (now(pl_module) - start)


def compare(recipe: Path, steps: int, warmup: int, rounds: int, batch: int | None, extra: list[str]) -> dict[str, Any]:
    """Time a recipe and its plain loop.

    Args:
        recipe: of an adversarial model of images.
        steps: optimizer steps of the generator in a round.
        warmup: those before the first.
        rounds: how many.
        batch: images in a batch; by default those of the recipe.
        extra: options of `zoo fit`.

    Raises:
        SystemExit: the model is another, or the run failed; its output is on stderr.
    """
    content = yaml.safe_load(recipe.read_text())
    if not content["model"]["class_path"].startswith("zoo.adversarial."):
        sys.exit(f"{recipe} trains no adversarial model: time it with training.py.")
    given = content["model"]["init_args"]
    arguments = {
        "shape": given["shape"],
        "levels": given.get("levels", 256),
        "classes": given.get("classes", 0),
        "batch_size": batch or content["data"]["init_args"]["batch_size"],
    }
    content["data"] = {"class_path": "adversarial.RandomImages", "init_args": arguments}
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(folder, recipe.name)
        changed.write_text(yaml.safe_dump(content))
        own = {"warmup": warmup, "steps": steps}
        result = watched(changed, 1, warmup + steps * rounds, "adversarial.Rounds", own, extra)
    ratios = [ours / plain for ours, plain in zip(result["ours"], result["plain"], strict=True)]
    return {"recipe": recipe.stem, **result, "ratio": round(statistics.median(ratios), 2)}


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--recipe", type=Path, nargs="+", required=True)
    parser.add_argument("--warmup", type=int, default=60, help="optimizer steps before the clock starts")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of the generator in a round")
    parser.add_argument("--rounds", type=int, default=5, help="of the recipe and of the plain loop, in turns")
    parser.add_argument("--batch", type=int, help="images in a batch, by default those of the recipe")
    options, extra = parser.parse_known_args()

    results = []
    print(f"{'recipe':22}  {'hardware':22}  precision   batch  images/s   plain  ratio")
    for recipe in options.recipe:
        result = compare(recipe, options.steps, options.warmup, options.rounds, options.batch, extra)
        results.append(result)
        ours, plain = (statistics.median(result[name]) for name in ("ours", "plain"))
        print(
            f"{recipe.stem:22}  {result['hardware']:22}  {result['precision']:10}  {result['batch']:5}  {ours:8,.0f}  "
            f"{plain:6,.0f}  {result['ratio']:5.2f}",
            flush=True,
        )
    print(json.dumps({"steps": options.steps, "rounds": options.rounds, "results": results}))


if __name__ == "__main__":
    main()
