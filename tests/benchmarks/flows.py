"""Time flows of vectors against zuko and normflows at equal architecture, on one CPU thread, in one run.

    pip install zuko normflows      # needed for this alone
    python tests/benchmarks/flows.py [--batch 256] [--rounds 40] [--seconds 0.02] [NAME ...]

Times are processor time, in which other work on the machine does not count. In each round all contenders run one after
the other, in another order each time; given are the median time of one piece of work, and the median of the ratios of a
round to the first's: above one, zoo is faster. The work is

    step        of training: the log-densities of a batch, their gradients, Adam
    density     the log-densities of a batch
    draw        a batch of samples; of a planar flow, with their log-densities
    fit         a step of variational fitting: samples with their log-densities, gradients, Adam

Adam has a rate of zero, so that the work is always the same. Models that train are in training mode, others in
evaluation mode. All have as many parameters, which is checked.

- maf-D: 5 MADEs with two hidden layers of 64 units, of 2 dimensions and of the 30 of the breast cancer table. zoo's is
  without its direct connections, which the others do not have; "zoo, direct" is the model as it is, with 2 D^2 weights
  more for each MADE. zoo's alone standardizes its data; normflows' MADE has a ReLU after its second layer only.
- planar: 32 planar layers in the plane. zuko has none.
- continuous-D: a velocity with three hidden layers of 64 units, zoo's in both, and zuko's solver and traces around it,
  for zuko's own network has no gates. The weights are such that a solver computes the velocity some 80 times, as often
  as it does for two moons after some training. Both have the same tolerances, 1e-3 in training and else 1e-5; but a
  tolerance is not the same thing in both, so the largest error of a log-density is given too, and how often the
  velocity was computed. normflows has none.
- inverse-D: of one of zoo's MADEs as it is, D steps of the inverse, against a pass forward.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from zoo.flows import MAF, ContinuousFlow, Flow, Inverse, Normal, Planar

Work = Callable[[], Any]
LAYERS, HIDDEN, PLANAR = 5, 64, 32
DIMS = (2, 30)


def libraries() -> tuple[Any, Any]:
    """zuko and normflows.

    Raises:
        SystemExit: one of them is not installed.
    """
    try:
        import normflows
        import zuko
    except ImportError:
        sys.exit(
            "This benchmark compares with zuko and normflows, which are not both installed: pip install zuko normflows."
        )
    return zuko, normflows


# -- work --------------------------------------------------------------------------------------------------------


def step(module: nn.Module, loss: Callable[[], Tensor]) -> Work:
    """Loss, gradients and Adam, which leaves the weights as they are."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0)

    def work() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return work


def without_gradients(function: Callable[[Any], Any], argument: Any) -> Work:
    """One call."""
    return torch.no_grad()(lambda: function(argument))


def divergence(drawn: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || N(0, I)) but for a constant, of draws and their log-density."""
    x, log_prob = drawn
    return (log_prob + 0.5 * x.square().sum(1)).mean()


def compare(works: dict[str, Work], rounds: int, seconds: float) -> dict[str, tuple[float, float]]:
    """The median time of each, in seconds, and the median ratio of a round to the first."""
    times: dict[str, list[float]] = {name: [] for name in works}
    repeats = {}
    for name, work in works.items():
        work()
        repeats[name] = max(1, round(seconds / max(1e-9, timed(work, 2))))
    for _ in range(rounds):
        for name in random.sample(list(works), len(works)):
            times[name].append(timed(works[name], repeats[name]))
    first = times[next(iter(works))]
    return {name: (median(own), median(a / b for a, b in zip(own, first, strict=True))) for name, own in times.items()}


def timed(work: Work, repeats: int) -> float:
    """Seconds of processor time for one."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


# -- contenders --------------------------------------------------------------------------------------------------
# Of each benchmark: the works of each kind, the modules, and what there is to say of their densities.

Benchmark = tuple[dict[str, dict[str, Work]], dict[str, nn.Module], dict[str, str]]


def parameters(module: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def zoo_maf(dims: int, direct: bool) -> MAF:
    """zoo's MAF, with its direct connections or without them."""
    model = MAF([dims], LAYERS, HIDDEN, 2)
    for transform in model.flow.transform.transforms[1:]:
        if not direct:
            transform.net.direct = None
    return model


def normflows_maf(normflows: Any, dims: int) -> nn.Module:
    """normflows' MAF; of the hidden layers of its MADE one is called a block."""
    transforms = []
    for _ in range(LAYERS):
        made = normflows.flows.MaskedAffineAutoregressive(dims, HIDDEN, num_blocks=1, use_residual_blocks=False)
        transforms += [normflows.flows.Reverse(made), normflows.flows.Permute(dims)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(dims, trainable=False), transforms[:-1])


def maf(dims: int, batch: int) -> Benchmark:
    """MAF in all three."""
    zuko, normflows = libraries()
    own = {"zoo": zoo_maf(dims, direct=False), "zoo, direct": zoo_maf(dims, direct=True)}
    theirs = zuko.flows.MAF(dims, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN))
    other = normflows_maf(normflows, dims)
    modules = {**own, "zuko": theirs, "normflows": other}
    density = {
        **{name: model.log_prob for name, model in own.items()},
        "zuko": lambda x: theirs().log_prob(x),
        "normflows": other.log_prob,
    }
    draw = {
        **{name: model.sample for name, model in own.items()},
        "zuko": lambda n: theirs().sample((n,)),
        "normflows": other.sample,
    }
    fit = {
        **{name: model.flow.rsample for name, model in own.items()},
        "zuko": lambda n: theirs().rsample_and_log_prob((n,)),
        "normflows": other.sample,
    }
    x = torch.randn(batch, dims)
    works = {
        "step": {name: step(modules[name], lambda f=f: -f(x).mean()) for name, f in density.items()},
        "density": {name: without_gradients(f, x) for name, f in density.items()},
        "draw": {name: without_gradients(f, batch) for name, f in draw.items()},
        "fit": {name: step(modules[name], lambda f=f: divergence(f(batch))) for name, f in fit.items()},
    }
    assert parameters(modules["zoo"]) == parameters(theirs) == parameters(other)
    assert parameters(modules["zoo, direct"]) == parameters(theirs) + LAYERS * 2 * dims**2
    return works, modules, {}


def planar(batch: int) -> Benchmark:
    """Planar layers in zoo and normflows."""
    normflows = libraries()[1]
    own = Flow(Normal([2]), [Inverse(Planar(2, PLANAR))])
    base = normflows.distributions.DiagGaussian(2, trainable=False)
    other = normflows.NormalizingFlow(base, [normflows.flows.Planar((2,)) for _ in range(PLANAR)])
    modules, draw = {"zoo": own, "normflows": other}, {"zoo": own.rsample, "normflows": other.sample}
    works = {
        "draw": {name: without_gradients(f, batch) for name, f in draw.items()},
        "fit": {name: step(modules[name], lambda f=f: divergence(f(batch))) for name, f in draw.items()},
    }
    assert parameters(own) == parameters(other)
    return works, modules, {}


class ZukoContinuous(nn.Module):
    """zuko's solver and trace around a velocity of zoo."""

    def __init__(self, zuko: Any, field: nn.Module, dims: int) -> None:
        super().__init__()
        self.zuko, self.field = zuko, field
        self.base = zuko.distributions.DiagNormal(torch.zeros(dims), torch.ones(dims))

    def forward(self, tolerance: float) -> Any:
        """The distribution."""
        transform = self.zuko.transforms.FreeFormJacobianTransform(
            lambda t, x: self.field(x, t, None, None)[0],
            phi=self.parameters() if self.training else (),
            atol=tolerance,
            rtol=tolerance,
        )
        return self.zuko.distributions.NormalizingFlow(transform, self.base)


def continuous(dims: int, batch: int) -> Benchmark:
    """Continuous flows in zoo and zuko."""
    own = ContinuousFlow([dims], HIDDEN, 3)
    own.log = lambda *_, **__: None  # there is no trainer
    transform = own.flow.transform.transforms[1]
    with torch.no_grad():
        for linear in (*transform.field.linear, *transform.field.time):
            linear.weight.normal_(std=2.5 * linear.in_features**-0.5)
    other = ZukoContinuous(libraries()[0], copy.deepcopy(transform.field), dims)
    loose, tight = own.hparams.train_tolerance, own.hparams.tolerance
    density = {"zoo": own.log_prob, "zuko": lambda x: other(tight).log_prob(x)}
    draw = {"zoo": own.sample, "zuko": lambda n: other(tight).sample((n,))}
    x = torch.randn(batch, dims)
    works = {
        "step": {
            "zoo": step(own, lambda: own.training_step((x,), 0)),
            "zuko": step(other, lambda: -other(loose).log_prob(x).mean()),
        },
        "density": {name: without_gradients(f, x) for name, f in density.items()},
        "draw": {name: without_gradients(f, batch) for name, f in draw.items()},
    }
    exact, notes = copy.deepcopy(own).double(), {}
    exact.flow.transform.transforms[1].tolerance = 1e-10
    with torch.no_grad():
        expected = exact.log_prob(x.double())
        for name, field in {"zoo": transform.field, "zuko": other.field}.items():
            with patch.object(field, "forward", wraps=field.forward) as velocity:
                error = (density[name](x) - expected).abs().max().item()
            notes[name] = f"error {error:.0e}, {velocity.call_count} velocities"
    assert parameters(own) == parameters(other)
    return works, {"zoo": own, "zuko": other}, notes


def inverse(dims: int, batch: int) -> Benchmark:
    """Both directions of one of zoo's MADEs."""
    transform, x = zoo_maf(dims, direct=True).flow.transform.transforms[1], torch.randn(batch, dims)
    directions = {"forward": transform, "inverse": transform.inverse}
    works = {name: without_gradients(f, x) for name, f in directions.items()}
    return {"density": works}, dict.fromkeys(works, transform), {}


NAMES = {
    **{f"maf-{dims}": partial(maf, dims) for dims in DIMS},
    "planar": planar,
    **{f"continuous-{dims}": partial(continuous, dims) for dims in DIMS},
    **{f"inverse-{dims}": partial(inverse, dims) for dims in DIMS},
}


def main() -> None:
    """Measure and print a table; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; by default all")
    parser.add_argument("--batch", type=int, default=256, help="data of a step or a draw")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.02, help="of each contender in a round")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"{name} is none of {', '.join(NAMES)}")
    libraries()

    torch.set_num_threads(1)
    results = []
    print(f"One CPU thread, batches of {options.batch}")
    print(f"{'name':13}  {'work':7}  {'contender':11}  parameters  milliseconds  ratio")
    for name in options.names or NAMES:
        torch.manual_seed(0)
        works, modules, notes = NAMES[name](options.batch)
        for kind, contenders in works.items():
            for module in modules.values():
                module.train(kind in ("step", "fit"))
            for contender, (seconds, ratio) in compare(contenders, options.rounds, options.seconds).items():
                count, milliseconds = parameters(modules[contender]), 1e3 * seconds
                note = notes.get(contender, "") if kind == "density" else ""
                row = f"{name:13}  {kind:7}  {contender:11}  {count:10,}  {milliseconds:12.3f}  {ratio:5.2f}  {note}"
                print(row.rstrip(), flush=True)
                results.append(
                    {
                        "name": name,
                        "work": kind,
                        "contender": contender,
                        "parameters": count,
                        "milliseconds": round(milliseconds, 4),
                        "ratio": round(ratio, 3),
                        "note": note,
                    }
                )
    print(json.dumps({"batch": options.batch, "rounds": options.rounds, "results": results}))


if __name__ == "__main__":
    main()
