"""Two processes train, checkpoint, resume and validate; each writes what it saw (see test_data_ddp.py)."""

import json
import sys
from pathlib import Path

import torch
from batch_recorder import fit
from lightning.pytorch.callbacks import ModelCheckpoint


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    two = {"devices": 2, "strategy": "ddp"}
    saving = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole, trainer = fit(folder, saving, batch_size=2, **two)
    seen = {
        "whole": whole.seen,
        "weight": whole.weight.item(),
        "val": trainer.callback_metrics["val"].item(),
        "resumed": {},
    }
    for step in (3, 10, 17):
        rest, _ = fit(folder, ckpt_path=folder / f"step={step}.ckpt", batch_size=2, **two)
        seen["resumed"][step] = {"seen": rest.seen, "weight": rest.weight.item()}
    (folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(seen))
    # As `zoo fit` does: what Gloo's threads still hold must not be freed while the interpreter ends.
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
