"""Two processes train each model of the contract; each writes the weights that it ends with (see test_contract.py)."""

import sys
from pathlib import Path

import torch
from test_contract import TOYS, made, steps
from tiny_runs import fit


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    weights, trainer = {}, None
    for name in names:
        torch.manual_seed(1)
        # Of a toy half of the batch each, so that both together see what one process sees.
        model, data = made(name, batch_size=4 if name in TOYS else 8)
        two = {"devices": 2, "strategy": "ddp", **steps(name, 5)}
        _, trainer = fit(folder / f"two-{name}", model=model, data=data, **two)
        weights[name] = {key: parameter.detach() for key, parameter in model.named_parameters()}
    torch.save(weights, folder / f"rank{trainer.global_rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
