"""How good samples are by the number of steps in which they are drawn: numbers of a checkpoint's config.json, drawn.

Nothing is measured here: `zoo evaluate NAME --metrics fid --steps 20 --sampler heun --write` puts a number there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from zoo.errors import ZooError
from zoo.pictures.plots import Curve, Panel
from zoo.results import Config, results_of

HOW = re.compile(r"([\d,]+) steps of (\w+)(?:, [\d,]+ passes)?([^;]*)")  # in a protocol; the rest are other options


def found_in(config: Config) -> dict[str, dict[int, float]]:
    """FID by steps for each way of sampling, of a checkpoint's config.json.

    A way is a sampler with its options, and its number of samples where they differ: FID falls with that.
    """
    found: dict[tuple[str, int | None], dict[int, float]] = {}
    for result in results_of(config):
        how = HOW.search(result.protocol)
        if result.metric.name == "fid" and how and not result.limit:
            steps, sampler, rest = how.groups()
            found.setdefault((sampler + rest, result.n), {})[int(steps.replace(",", ""))] = result.value
    several = len({n for _, n in found}) > 1
    return {
        f"{way}, n = {n:,}" if several and n else way: dict(sorted(each.items())) for (way, n), each in found.items()
    }


def panel(found: Mapping[str, Mapping[int, float]]) -> Panel:
    """Curves of FID against steps, on axes that are both logarithmic.

    Args:
        found: FID by steps, for each way of sampling.

    Raises:
        ZooError: there is no number.
    """
    if not any(found.values()):
        raise ZooError(
            "There is no FID by a number of steps to draw: measure some, zoo evaluate NAME --metrics fid --steps 20 "
            "--write."
        )
    curves = [Curve(way, list(each), list(each.values()), marked=True) for way, each in found.items() if each]
    return Panel("FID", "steps", curves, logarithmic=True)
