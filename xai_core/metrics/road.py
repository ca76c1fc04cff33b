"""ROAD: removal of pixels whose neighbours say nothing about which pixels were removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.baselines import spatial_axes
from xai_core.blocks import spans
from xai_core.errors import OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Scored
from xai_core.metrics.ground import PIXELS, Ground, Order
from xai_core.metrics.imputation import imputed
from xai_core.problem import is_floating

__all__ = ["ROAD"]

_Host = np.ndarray[Any, Any]
NOISE_PART = 3_540_000


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ROAD(Scored):
    """Remove and debias: what the score loses when pixels are filled in from their neighbours.

    At each of the `percentages` of pixels, the most and the least relevant ones are filled by noisy linear imputation: each
    filled pixel is the weighted mean of its eight neighbours, filled ones among them, sides weighing 1/6 and corners 1/12,
    which is a sparse linear system, plus Gaussian noise. With `order="combined"` the value is `(f(least first) - f(most
    first)) / 2`, averaged over the percentages, higher is better; with `"most"` or `"least"` the mean score, of which lower
    or higher is better. `curve` are the values at each percentage, `at` the shares. One model row for each percentage and
    order, one for the score.

    Source: Rong et al. 2022, arXiv:2202.00449, section 4.2 and appendix C; combined as in pytorch-grad-cam.

    Parameters
    ----------
    percentages
        Shares of the pixels that are filled, in percent.
    order
        `"combined"`, `"most"` or `"least"`: which pixels are filled.
    noise
        Standard deviation of the noise in filled pixels, in units of the input.
    score
        As for `Deletion`.
    """

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True

    percentages: tuple[float, ...] = (10, 20, 30, 40, 50, 60, 70, 80, 90)
    order: str = "combined"
    noise: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.percentages if isinstance(self.percentages, (tuple, list)) else ()
        if not shares or not all(isinstance(share, (int, float)) and 0 < share < 100 for share in shares):
            raise OptionError(
                "`percentages` are numbers between 0 and 100.",
                received=describe(self.percentages),
                fix="(20, 40, 60, 80)",
            )
        if self.order not in ("combined", "most", "least"):
            raise OptionError("`order` must be 'combined', 'most' or 'least'.", received=describe(self.order))
        if not (isinstance(self.noise, (int, float)) and 0 <= self.noise < np.inf):
            raise OptionError("`noise` must be at least 0.", received=describe(self.noise), fix="noise=0.01")

    @property
    def direction(self) -> str | None:
        return {"combined": "higher", "most": "lower", "least": "higher"}[self.order]

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        problem = ground.problem
        for leaf in problem.varied:
            if len(problem.varied) > 1 or len(spatial_axes(problem, leaf)) != 2 or not is_floating(leaf):
                raise OptionError(
                    "ROAD fills in pixels of images.",
                    received=", ".join(map(describe, problem.varied)),
                    fix="Deletion with a baseline for other inputs.",
                )
        order = ground.order(explanation, PIXELS)
        ends = [(which, share) for which in self._orders() for share in self.percentages]
        curves = _scores(ground, order, ends, self.noise).reshape(ground.batch, -1, len(self.percentages))
        curve = (curves[:, 1] - curves[:, 0]) / 2 if self.order == "combined" else curves[:, 0]
        return Measured(curve.mean(axis=1), curve, np.asarray(self.percentages) / 100)

    def _orders(self) -> tuple[str, ...]:
        return ("most", "least") if self.order == "combined" else (self.order,)


def _scores(ground: Ground, order: Order, ends: Sequence[tuple[str, float]], noise: float) -> _Host:
    """Scores (batch, ends) of inputs of which the most or least relevant share of pixels is filled in."""
    problem = ground.problem
    table: dict[tuple[str, float], _Host] = ground.known(("road", order.key, noise), dict)
    missing = [end for end in dict.fromkeys(ends) if end not in table]
    for block in spans(len(missing), max(1, problem.held // problem.batch), constant=problem.constant_shapes):
        some = missing[block.start : block.start + block.size]
        filled = [_filled(ground, order, which, percentage, noise) for which, percentage in some]
        # One that only fills the block up is not computed again.
        wide = problem.xp.stack([*filled, *filled[-1:] * (block.width - block.size)], axis=1)
        shape = tuple(wide.shape)
        leaves = [problem.xp.reshape(wide, (shape[0] * shape[1], *shape[2:]))]
        leaves += [problem.xp.repeat(leaf, block.width, axis=0) for leaf in problem.leaves[1:]]
        found = ground.scores_of(leaves, block.width)
        table.update((end, found[:, place]) for place, end in enumerate(some))
    return np.stack([table[end] for end in ends], axis=1)


def _filled(ground: Ground, order: Order, which: str, percentage: float, noise: float) -> Any:
    """Inputs with a share of the pixels filled in."""
    problem, count = ground.problem, order.features.count
    number = round(percentage / 100 * count)
    gone = order.ranks < number if which == "most" else order.ranks >= count - number
    leaf = problem.varied[0]
    shape = tuple(leaf.shape)
    channel = problem.bound.channel_axis_of(shape) or 1
    sides = tuple(side for axis, side in enumerate(shape[1:], 1) if axis != channel)
    holes = np.expand_dims(gone.reshape(shape[0], *sides), channel)
    filled = imputed(problem, leaf, holes)
    if noise:
        part = NOISE_PART + 2 * round(percentage * 100) + (which == "least")
        normal = problem.normal(range(shape[0]), [0], 0, part)[:, 0]
        filled = filled + problem.to_device(normal * holes * noise, like=leaf)
    return problem.xp.astype(filled, leaf.dtype)
