"""Any explainer, averaged over noisy copies of the input."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from xai_core.attribution.base import Attribution, Explainer, base_explainer, positive_int
from xai_core.attribution.gradient import Gradient
from xai_core.baselines import sample_range
from xai_core.blocks import spans
from xai_core.errors import IntegerInputError, OptionError, describe
from xai_core.model import Net
from xai_core.problem import Problem, is_floating

__all__ = ["ADD_NOISE", "SmoothGrad", "SquareGrad", "VarGrad", "noise_spreads", "noisy_copies"]


@dataclass(frozen=True, eq=False, repr=False)
class _NoiseTunnel(Explainer):
    """Shared part: draws noise, explains the noisy inputs, and keeps running moments."""

    stochastic: ClassVar[bool] = True

    explainer: Explainer = field(default_factory=Gradient)
    samples: int = field(default=32, kw_only=True)
    noise: float = field(default=0.15, kw_only=True)

    def __post_init__(self) -> None:
        base_explainer("explainer", self.explainer)
        positive_int("samples", self.samples, least=self._least_samples)
        if (
            isinstance(self.noise, bool)
            or not isinstance(self.noise, (int, float))
            or not 0 <= self.noise < float("inf")
        ):
            raise OptionError(
                "`noise` is a standard deviation as a fraction of each input's range, at least 0.",
                received=describe(self.noise),
                fix="noise=0.15",
            )

    _least_samples: ClassVar[int] = 1

    def uses_gradients(self) -> bool:
        return self.explainer.uses_gradients()

    def varies_inputs(self) -> bool:
        return self.layer is None and self.explainer.varies_inputs()

    def gives_slopes(self) -> bool:
        return self.explainer.gives_slopes()

    def planned_rows(self, batch: int) -> int:
        return batch * (self.samples * self.explainer.planned_rows(1) + 1)

    @abstractmethod
    def _moment(self, count: int, mean: list[Any], deviations: list[Any]) -> list[Any]:
        """The result from the mean and the sum of squared deviations of all draws."""

    _squares: ClassVar[bool] = False
    _spread: ClassVar[bool] = False

    def attribute(self, problem: Problem) -> Attribution:
        xp, batch = problem.xp, problem.batch
        fix = f'add it at the embedding: {type(self).__name__}(..., layer="embedding").'
        spread = noise_spreads(problem, self.noise, fix)
        count, mean, deviations, found = 0, None, None, None
        for block in spans(self.samples, max(1, problem.held // batch), constant=problem.constant_shapes):
            rows = [row for row in range(batch) for _ in range(block.width)]
            noisy = []
            for position, leaf in enumerate(problem.leaves):
                if position >= len(spread) or spread[position] is None:
                    noisy.append(xp.repeat(leaf, block.width, axis=0))
                    continue
                normal = problem.normal(range(batch), block.indices, position, part=position)
                noisy.append(problem.run(ADD_NOISE, leaf, problem.to_device(normal, like=leaf), spread[position]))
            streams = problem.streams.children(range(batch), block.indices)
            found = self.explainer.attribute_at_layer(problem.inside(noisy, rows, streams))
            wide = [xp.astype(value, problem.accumulator_dtype(value)) for value in found.values]
            used = np.zeros(block.width)
            used[: block.size] = 1.0
            mask = problem.to_device(used, like=wide[0])
            sizes = problem.to_device(np.asarray([count, block.size], dtype=float), like=wide[0])
            if mean is None or deviations is None:
                mean = [xp.zeros_like(value[:batch, ...]) for value in wide]
                deviations = mean
            mean, deviations = problem.run(_Moments(self._squares, self._spread), wide, mask, sizes, mean, deviations)
            count += block.size
        if mean is None or deviations is None or found is None:
            raise OptionError("`samples` must be positive.", received=describe(self.samples))
        values = self._moment(count, list(mean), list(deviations))
        return Attribution(values, layer=found.layer, coverage=found.coverage)


def noise_spreads(problem: Problem, noise: float, fix: str) -> list[Any]:
    """`noise` times the range of each sample, on the device, broadcasting to each input; `None` for integers.

    Raises
    ------
    IntegerInputError
        If no input can take noise; it says how to mend that, `fix`.
    """
    xp = problem.xp
    if not any(is_floating(leaf) for leaf in problem.varied):
        raise IntegerInputError(
            "Noise cannot be added to integers.",
            received=", ".join(describe(leaf) for leaf in problem.varied),
            fix=fix,
        )
    return [
        noise * sample_range(xp, xp.astype(leaf, problem.accumulator_dtype(leaf))) if is_floating(leaf) else None
        for leaf in problem.varied
    ]


class _AddNoise:
    """Kernel: noisy copies (batch * draws, ...) of a leaf; `normal` is (batch, draws, ...)."""

    def __call__(self, net: Net, leaf: Any, normal: Any, spread: Any) -> Any:
        return noisy_copies(net.xp, leaf, normal, spread)


def noisy_copies(xp: Any, leaf: Any, normal: Any, spread: Any) -> Any:
    """Copies (batch * draws, ...) of a leaf with `normal`, (batch, draws, ...), times `spread`, (batch, ...), added."""
    shape = tuple(normal.shape)
    noisy = xp.astype(leaf, normal.dtype)[:, None, ...] + normal * spread[:, None, ...]
    return xp.reshape(xp.astype(noisy, leaf.dtype), (shape[0] * shape[1], *shape[2:]))


ADD_NOISE = _AddNoise()


@dataclass(frozen=True)
class _Moments:
    """Kernel: merge a block of draws into the running mean and, where `spread`, the sum of squared deviations.

    Chan, Golub and LeVeque 1979: unlike sums of squares, this loses no digits to cancellation.
    """

    squares: bool
    spread: bool

    def __call__(
        self, net: Net, values: list[Any], mask: Any, sizes: Any, means: list[Any], deviations: list[Any]
    ) -> tuple[list[Any], list[Any]]:
        xp = net.xp
        new_means, new_deviations = [], []
        for value, mean, deviation in zip(values, means, deviations, strict=True):
            shape = tuple(mean.shape)
            draws = xp.reshape(value, (shape[0], -1, *shape[1:]))
            if self.squares:
                draws = draws * draws
            weight = xp.reshape(mask, (1, -1, *(1 for _ in shape[1:])))
            before, added = sizes[0], sizes[1]
            flat = xp.reshape(draws, (shape[0], tuple(draws.shape)[1], -1))
            centre = xp.reshape(xp.matmul(mask[None, :], flat), shape) / added
            shift, share = centre - mean, added / (before + added)
            new_means.append(mean + shift * share)
            if self.spread:
                scatter = xp.sum(weight * (draws - centre[:, None, ...]) ** 2, axis=1)
                deviation = deviation + scatter + shift * shift * (before * share)
            new_deviations.append(deviation)
        return new_means, new_deviations


@dataclass(frozen=True, eq=False, repr=False)
class SmoothGrad(_NoiseTunnel):
    """Mean explanation of noisy copies of the input.

    `values = mean_d E(x + noise * range(x) * n_d)` with `n_d` standard normal; `samples` times the rows of the
    explainer.

    Source: Smilkov et al. 2017, arXiv:1706.03825, section 2.

    Parameters
    ----------
    explainer
        Any explainer, also a composed one.
    samples
        Noisy copies per input.
    noise
        Standard deviation as a fraction of each sample's range, maximum minus minimum; the paper suggests 0.1 to 0.2.
    """

    def _moment(self, count: int, mean: list[Any], deviations: list[Any]) -> list[Any]:
        return mean


@dataclass(frozen=True, eq=False, repr=False)
class SquareGrad(_NoiseTunnel):
    """Mean squared explanation of noisy copies of the input, called SmoothGrad-squared in its paper.

    `values = mean_d E(x + noise * range(x) * n_d)^2`; `samples` times the rows of the explainer.

    Source: Hooker et al. 2019, arXiv:1806.10758, section 4.2. Parameters as for `SmoothGrad`.
    """

    _squares: ClassVar[bool] = True

    def _moment(self, count: int, mean: list[Any], deviations: list[Any]) -> list[Any]:
        return mean


@dataclass(frozen=True, eq=False, repr=False)
class VarGrad(_NoiseTunnel):
    """Variance of the explanation over noisy copies of the input, with divisor `samples`.

    `values = mean_d E(x_d)^2 - (mean_d E(x_d))^2`; `samples` times the rows of the explainer.

    Source: Adebayo et al. 2018, arXiv:1810.03292, section 2. Parameters as for `SmoothGrad`.
    """

    _least_samples: ClassVar[int] = 2
    _spread: ClassVar[bool] = True

    def _moment(self, count: int, mean: list[Any], deviations: list[Any]) -> list[Any]:
        return [deviation / count for deviation in deviations]
