"""Two processes see what one sees that has twice the batch size, also after a resume."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from batch_recorder import TRAINING, VALIDATION, fit

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddp")
    path = os.pathsep.join([str(HERE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    loopback = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    environment = os.environ | loopback | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(HERE / "ddp_run.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


def test_two_ranks_together_see_what_one_process_sees(ranks, tmp_path):
    one, _ = fit(tmp_path, batch_size=4)
    assert len(ranks[0]["whole"]) == len(ranks[1]["whole"]) == len(one.seen)
    for first, second, both in zip(ranks[0]["whole"], ranks[1]["whole"], one.seen, strict=True):
        assert first[:2] == second[:2] == both[:2]
        assert first[2] + second[2] == both[2]
    # Averaged gradients: the same up to rounding.
    assert ranks[0]["weight"] == ranks[1]["weight"] == pytest.approx(one.weight.item(), abs=1e-6)


def test_two_ranks_resume_where_they_were(ranks):
    for rank in ranks:
        for step, rest in rank["resumed"].items():
            assert rest["seen"] == rank["whole"][int(step) :]
            assert rest["weight"] == rank["weight"]


def test_two_ranks_validate_each_item_once(ranks):
    # 5 items over 2 ranks in batches of at most 2: uneven pieces, yet the exact mean.
    exact = sum(range(TRAINING, TRAINING + VALIDATION)) / VALIDATION
    assert ranks[0]["val"] == ranks[1]["val"] == pytest.approx(exact, abs=1e-5)
