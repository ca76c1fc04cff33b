"""Performance information curves: how well the model does by how much information about the image is there."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from xai_core.baselines import Blur, spatial_axes
from xai_core.cores import on_all_cores
from xai_core.errors import BackendError, OptionError, describe
from xai_core.explanation import Explanation
from xai_core.metrics.base import Measured, Scored
from xai_core.metrics.ground import PIXELS, Ground, Order
from xai_core.metrics.statistics import area

__all__ = ["AccuracyInformationCurve", "SoftmaxInformationCurve"]

_Host = np.ndarray[Any, Any]
_SHARES = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.13, 0.21, 0.34, 0.5, 0.75)
_POINTS = 101


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class _InformationCurve(Scored, abstract=True):
    """Base: the score by the size of the compressed image while the most relevant pixels are sharpened."""

    category: ClassVar[str] = "faithfulness"
    higher_is_better: ClassVar[bool | None] = True

    baseline: Any = field(default_factory=Blur)
    shares: tuple[float, ...] = _SHARES

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.shares if isinstance(self.shares, (tuple, list)) else ()
        if not shares or not all(isinstance(share, (int, float)) and 0 < share < 1 for share in shares):
            raise OptionError(
                "`shares` are numbers between 0 and 1.", received=describe(self.shares), fix="shares=(0.01, 0.1, 0.5)"
            )

    def measure(self, ground: Ground, explanation: Explanation, masks: Any) -> Measured:
        order = ground.order(explanation, PIXELS)
        count = order.features.count
        counts = np.unique(np.round(np.sort(np.asarray([0.0, *self.shares, 1.0])) * count).astype(np.int64))
        scores = ground.removed(order, self.baseline, counts, np.full_like(counts, count))
        sizes = ground.known(
            ("sizes", order.key, ground.key(self.baseline), tuple(counts)), lambda: self._sizes(ground, order, counts)
        )
        performance, information = (_from_zero_to_one(ends) for ends in (scores, sizes))
        performance = np.maximum.accumulate(performance, axis=1)
        at, curve = np.linspace(0.0, 1.0, _POINTS), np.full((ground.batch, _POINTS), np.nan)
        for row in range(ground.batch):
            if np.isfinite(performance[row]).all() and np.isfinite(information[row]).all():
                # Of points with as much information the best counts; both ends are given.
                place = np.lexsort((performance[row], information[row]))
                known, best = information[row][place], np.maximum.accumulate(performance[row][place])
                curve[row] = np.interp(at, np.append(known, 1.0), np.append(best, 1.0))
                curve[row, 0] = 0.0
        return Measured(area(curve, at), curve, at, {"information": information, "performance": performance})

    def _sizes(self, ground: Ground, order: Order, counts: _Host) -> _Host:
        """Bytes (batch, points) of the images, compressed without loss."""
        try:
            from PIL import Image
        except ImportError as error:
            raise BackendError(
                f"{type(self).__name__} compresses images with Pillow, which is not installed.",
                fix="pip install 'xai-core[plot]'",
            ) from error
        problem = ground.problem
        leaf = problem.varied[0]
        channel = problem.bound.channel_axis_of(tuple(leaf.shape)) or 1
        images = len(problem.varied) == 1 and len(spatial_axes(problem, leaf)) == 2
        if not images or int(leaf.shape[channel]) not in (1, 3):
            raise OptionError(
                f"{type(self).__name__} compresses images of one or three channels.",
                received=", ".join(map(describe, problem.varied)),
                fix="Insertion, whose axis is the share of features, for other inputs.",
            )
        filling = ground.removal(self.baseline).arrays[0]
        sharp, dull = (np.moveaxis(ground.on_host(array), channel, -1) for array in (leaf, filling))
        ranks = order.ranks.reshape(sharp.shape[:-1])

        def sizes(row: int) -> list[int]:
            low, high = sharp[row].min(), sharp[row].max()
            found = []
            for shown in counts:
                image = np.where((ranks[row] < shown)[..., None], sharp[row], dull[row])
                scaled = np.clip((image - low) / (high - low if high > low else 1.0), 0.0, 1.0)
                pixels = np.round(255 * scaled).astype(np.uint8)
                file = io.BytesIO()
                Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
                    file, format="webp", lossless=True, quality=100
                )
                found.append(file.tell())
            return found

        return np.array(on_all_cores(sizes, range(ground.batch)), dtype=np.float64)


def _from_zero_to_one(ends: _Host) -> _Host:
    """Rows from 0 at their first to 1 at their last entry; NaN where the last is not larger."""
    first, last = ends[:, :1], ends[:, -1:]
    grows = last > first
    return np.where(grows, np.clip((ends - first) / np.where(grows, last - first, 1.0), 0.0, 1.0), np.nan)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SoftmaxInformationCurve(_InformationCurve):
    """Area under the score by the information in the image, while the most relevant pixels of a blurred image are sharpened.

    The score goes from 0 for the blurred to 1 for the sharp image and never falls; information is the size of the image,
    compressed by lossless WebP, from 0 for the blurred to 1 for the sharp image. From 0 to 1, higher is better. NaN where
    the blurred image has no lower score, or is no smaller: the authors leave such images out. `curve` is the score at 101
    amounts of information, `at` these; `details` has both at each of the `shares`. A model row for each share, two more for
    the ends.

    Source: Kapishnikov et al. 2019, arXiv:1906.02825, section 4.2.

    Parameters
    ----------
    baseline
        The blurred image; by default Gaussian blur, `xai.Blur()`.
    shares
        Shares of the pixels that are sharpened.
    score
        Which score; by default the probability of the class, by a softmax of the model's outputs. `None` for models that
        give probabilities.
    """

    score: Any = "probability"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AccuracyInformationCurve(_InformationCurve):
    """As `SoftmaxInformationCurve`, with 1 where the explained class is the predicted one and 0 elsewhere for the score.

    Source: Kapishnikov et al. 2019, arXiv:1906.02825, section 4.2.

    Parameters
    ----------
    baseline, shares
        As for `SoftmaxInformationCurve`.
    score
        Which score; by default 1 for the predicted class and 0 for others.
    """

    score: Any = "accuracy"
