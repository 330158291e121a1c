"""Two processes train each toy; each writes its weights (see test_contract.py)."""

import importlib
import json
import sys
from pathlib import Path

import torch
from tiny_runs import fit


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    weights, trainer = {}, None
    for name in names:
        # Half of the batch each, so that both together see what one process sees.
        model, data = importlib.import_module(name).toy(batch_size=4, validation=20)
        two = {"devices": 2, "strategy": "ddp_find_unused_parameters_true", "max_steps": 5}
        _, trainer = fit(folder / f"two-{name}", model=model, data=data, **two)
        weights[name] = {key: parameter.detach().tolist() for key, parameter in model.named_parameters()}
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(weights))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
