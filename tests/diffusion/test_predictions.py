"""What a network tells: inverse conversions, the papers' own definitions, and what they come to at the ends."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.diffusion.predictions import PREDICTIONS, datum_of, preconditioned, prediction_of, target_of
from zoo.diffusion.schedules import alpha_sigma
from zoo.errors import DataError

LOG_SNRS = torch.linspace(-9, 9, 19, dtype=torch.float64)


def noised(n: int = 19, seed: int = 0):
    """x and noise, (n, 3), and z of them at `LOG_SNRS`."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = (torch.randn(n, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    alpha, sigma = (each[:, None] for each in alpha_sigma(LOG_SNRS))
    return x, noise, alpha * x + sigma * noise


@pytest.mark.parametrize("name", PREDICTIONS)
def test_target_and_datum_are_inverse(name):
    x, _, z = noised()
    coefficients = prediction_of(name)(LOG_SNRS, 0.5)
    target = target_of(x, z, coefficients)
    torch.testing.assert_close(datum_of(target, z, coefficients), x)
    output = torch.randn_like(x)
    torch.testing.assert_close(target_of(datum_of(output, z, coefficients), z, coefficients), output)
    one = prediction_of(name)(LOG_SNRS[3], 0.5)  # one log-SNR for all data
    torch.testing.assert_close(datum_of(target_of(x, z, one), z, one), x)


def test_targets_are_the_papers():
    """The noise; x; v = alpha noise - sigma x; and in coordinates y = x + s noise, (x - c_skip y) / c_out (table 1)."""
    x, noise, z = noised()
    alpha, sigma = (each[:, None] for each in alpha_sigma(LOG_SNRS))
    s, d = sigma / alpha, 0.5
    skip, out = d**2 / (s**2 + d**2), s * d / (s**2 + d**2).sqrt()
    own = {
        "epsilon": noise,
        "x": x,
        "v": alpha * noise - sigma * x,
        "preconditioned": (x - skip * (x + s * noise)) / out,
    }
    assert own.keys() == PREDICTIONS.keys()
    for name, expected in own.items():
        torch.testing.assert_close(target_of(x, z, prediction_of(name)(LOG_SNRS, d)), expected)


def test_conversions_agree_through_the_datum():
    """What one network tells, any other could: from its output to x, and from x to the other's output."""
    x, _, z = noised()
    alpha, sigma = (each[:, None] for each in alpha_sigma(LOG_SNRS))
    told = x + 0.3 * torch.randn_like(x)  # of an imperfect network
    outputs = {name: target_of(told, z, prediction(LOG_SNRS, 0.5)) for name, prediction in PREDICTIONS.items()}
    for name, prediction in PREDICTIONS.items():
        torch.testing.assert_close(datum_of(outputs[name], z, prediction(LOG_SNRS, 0.5)), told)
    torch.testing.assert_close(outputs["epsilon"], (z - alpha * told) / sigma)
    torch.testing.assert_close(outputs["v"], alpha * outputs["epsilon"] - sigma * outputs["x"])
    # Salimans & Ho 2022, section 4: x = alpha z - sigma v, and so noise = sigma z + alpha v.
    torch.testing.assert_close(outputs["epsilon"], sigma * z + alpha * outputs["v"])


@pytest.mark.parametrize("name", PREDICTIONS)
def test_an_error_of_the_output_is_out_times_it_in_the_datum(name):
    """By which the weight of a noise level follows from the prediction."""
    _, _, z = noised()
    coefficients = prediction_of(name)(LOG_SNRS, 0.5)
    change = datum_of(torch.ones_like(z), z, coefficients) - datum_of(torch.zeros_like(z), z, coefficients)
    torch.testing.assert_close(change, coefficients.out[:, None].expand_as(z))


@pytest.mark.parametrize("deviation", [0.25, 0.5, 1.0, 3.0])
def test_preconditioning_gives_unit_variances_and_the_least_error(deviation):
    """For x of that deviation: those of input and target from the coefficients; the error's weight is stationary.

    z and the target are linear in x and the noise, which are independent.
    """
    alpha, sigma = alpha_sigma(LOG_SNRS)
    scale, skip, out = preconditioned(LOG_SNRS, deviation)
    one = torch.ones_like(alpha)
    torch.testing.assert_close(scale**2 * (alpha**2 * deviation**2 + sigma**2), one)
    variance = ((1 - skip * alpha) ** 2 * deviation**2 + (skip * sigma) ** 2) / out**2
    torch.testing.assert_close(variance, one)
    for other in (0.99 * skip, 1.01 * skip):  # any other skip needs a larger out for unit variance (appendix B.6)
        larger = ((1 - other * alpha) ** 2 * deviation**2 + (other * sigma) ** 2).sqrt()
        assert (larger > out.abs()).all()


def test_preconditioning_by_deviation_one_is_minus_the_velocity():
    x, _, z = noised()
    found, velocity = preconditioned(LOG_SNRS, 1.0), prediction_of("v")(LOG_SNRS)
    torch.testing.assert_close(found.scale, torch.ones_like(LOG_SNRS))
    torch.testing.assert_close(found.skip, velocity.skip)
    torch.testing.assert_close(found.out, -velocity.out)
    torch.testing.assert_close(target_of(x, z, found), -target_of(x, z, velocity))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("end", [60.0, math.inf, -60.0, -math.inf])
@pytest.mark.parametrize("name", PREDICTIONS)
def test_ends_are_finite_where_the_datum_is_told(name, end, dtype):
    """Without noise all tell x, which then is z; without a datum all but the noise: sigma / alpha has no limit."""
    log_snr = torch.tensor([end], dtype=dtype)
    z, output = torch.tensor([[0.3]], dtype=dtype), torch.tensor([[0.7]], dtype=dtype)
    coefficients = prediction_of(name)(log_snr, 0.5)
    x = datum_of(output, z, coefficients)
    assert coefficients.scale.isfinite().all()
    if end > 0:
        assert x.isfinite().all()
        torch.testing.assert_close(x, output if name == "x" else z)
    elif name == "epsilon":
        assert float(coefficients.out.abs()) > 1e12
    else:
        torch.testing.assert_close(x, {"x": output, "v": -output, "preconditioned": 0.5 * output}[name])


def test_a_prediction_of_no_such_name():
    with pytest.raises(DataError, match="prediction must be one of epsilon, x, v, preconditioned, not 'score'"):
        prediction_of("score")
