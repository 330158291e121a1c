"""Two processes train one GAN; each writes its weights (see test_gan.py)."""

import json
import sys
from pathlib import Path

import torch
from tiny_runs import FewDigits, fit

from zoo.adversarial import GAN


class Noted(GAN):
    """Notes what it draws."""

    noise: float = 0.0

    def fake(self, real, batch):
        fake = super().fake(real, batch)
        self.noise += fake.detach().sum().item()
        return fake


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # A penalty, batch normalization and turns of unequal length: all that sets one backward pass apart from the next.
    arguments = {"network": "dcgan", "channels": 4, "critic_steps": 2, "penalty": 10.0, "distance": "wasserstein"}
    model = Noted([1, 8, 8], 17, **arguments)
    before = model.state_dict()["net.first.weight"].clone()
    two = {"devices": 2, "strategy": "ddp", "max_steps": 4}
    _, trainer = fit(folder, model=model, data=FewDigits(batch_size=8, validation=100), **two)
    weights = {name: parameter.double().sum().item() for name, parameter in model.named_parameters()}
    seen = {"weights": weights, "noise": model.noise, "moved": not torch.equal(before, model.net.first.weight)}
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
