"""Score lost when features are removed one at a time, or take the values of other samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, positive_int
from xai_core.attribution.game import Game, Removal
from xai_core.baselines import resolve_background
from xai_core.errors import BaselineError
from xai_core.features import resolve_features
from xai_core.problem import Problem, independent

__all__ = ["FeatureAblation", "FeaturePermutation"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FeatureAblation(Explainer):
    """Score lost when one feature is removed.

    `values = f(x) - f(x with the feature removed)` at each element of the feature. One forward row per feature, times
    the rows of the background, and one for the score.

    Source: Zeiler and Fergus 2014, arXiv:1311.2901, for features of any form.

    Parameters
    ----------
    features
        What is removed together: `None` for single columns or tokens, and at most 64 tiles of an image; labels as an
        integer array; or a rule, `xai.Patches`, `xai.Superpixels`, `xai.Spans`, `xai.Groups`, `xai.Elements`.
    baseline
        What removed features are filled with, as for `IntegratedGradients`.
    background
        Data instead of a baseline: the score is averaged over its rows, each of which is a model row.
    """

    differentiates: ClassVar[bool] = False
    keeps_missing: ClassVar[bool] = True

    features: Any = None
    baseline: Any = 0.0
    background: Any = None

    def attribute(self, problem: Problem) -> Attribution:
        game = Game.of(problem, self.features, self.baseline, self.background)
        lost = lost_one_by_one(game)
        if not bool(np.any(problem.to_host(lost != 0))) and game.inert():
            raise independent(problem, type(self).__name__)
        return game.spread(lost, share=False)


def lost_one_by_one(game: Game) -> Any:
    """Score minus the worth of all features but one, (batch, features, outputs)."""
    players = game.count

    def masks(numbers: Any) -> np.ndarray[Any, Any]:
        return np.arange(players)[None, :] != np.asarray(numbers)[:, None]

    return game.full() - game.worth(masks, players)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FeaturePermutation(Explainer):
    """Score lost when one feature takes the value that it has in another sample.

    `values = f(x) - mean_d f(x with the feature of sample j_d)` at each element of the feature, where `j_d` is another
    sample of the batch, or a row of the background. Over many samples its mean is the importance that permuting a
    column has. `samples` forward rows per feature, and one for the score. Without a background the result depends on the
    batch that is explained.

    Source: Breiman 2001, "Random forests", section 10; Fisher, Rudin and Dominici 2019, arXiv:1801.01489.

    Parameters
    ----------
    features
        As for `FeatureAblation`.
    background
        Data whose values are taken; `None`: the other samples of the batch.
    samples
        Other samples for each input; all features take their values from the same ones.
    """

    differentiates: ClassVar[bool] = False
    keeps_missing: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True

    features: Any = None
    background: Any = None
    samples: int = 1

    def __post_init__(self) -> None:
        positive_int("samples", self.samples)

    def planned_rows(self, batch: int) -> int:
        return batch

    def attribute(self, problem: Problem) -> Attribution:
        xp, batch = problem.xp, problem.batch
        if self.background is None and batch < 2:
            raise BaselineError(
                "FeaturePermutation takes values of other samples, and there is only one.",
                received="a batch of one",
                fix="give background=x_train[:100], or more samples at once.",
            )
        features = resolve_features(problem, self.features)
        arrays = problem.varied if self.background is None else resolve_background(problem, self.background)
        chosen = self._partners(problem, int(arrays[0].shape[0]))
        lost, game = [], None
        for draw in range(self.samples):
            place = problem.to_device(chosen[:, draw])
            filled = [xp.take(array, place, axis=0) for array, _ in zip(arrays, problem.varied, strict=False)]
            game = Game(problem, features, Removal(filled, 1, False))
            lost.append(lost_one_by_one(game))
        every = xp.stack(lost)
        values = xp.mean(every, axis=0)
        if game is not None and not bool(np.any(problem.to_host(values != 0))) and game.inert():
            raise independent(problem, type(self).__name__)
        if game is None or self.samples == 1:
            return Game(problem, features, Removal([], 1, False)).spread(values, share=False)
        spread = xp.sum((every - values[None, ...]) ** 2, axis=0)
        return game.spread(values, xp.sqrt(spread / (self.samples * (self.samples - 1))), share=False)

    def _partners(self, problem: Problem, size: int) -> np.ndarray[Any, Any]:
        """Rows (batch, samples) whose values each sample takes, never its own; all are used before one comes again."""
        others = self.background is None
        count = size - 1 if others else size
        laps = -(-self.samples // count)
        chosen = np.empty((problem.batch, self.samples), dtype=np.int64)
        for row in range(problem.batch):
            source = problem.streams.generator(row, 0, PARTNER_PART)
            picked = np.concatenate([source.permutation(count) for _ in range(laps)])[: self.samples]
            chosen[row] = picked + (picked >= row) if others else picked
        return chosen


PARTNER_PART = 3_000_001
"""Stream part of the samples whose values others take."""
