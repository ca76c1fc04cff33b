"""Mean squared error of sampled Shapley values, ours and those of peers at the same model rows.

Run as a program it prints the table of docs/accuracy.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import xai_core as xai

Net = Callable[[np.ndarray], np.ndarray]


def network(players: int, rng: np.random.Generator) -> Net:
    """Two layers with tanh."""
    first, second = rng.normal(size=(players, 32)) * 2 / np.sqrt(players), rng.normal(size=32) / np.sqrt(32)
    return lambda x: np.tanh(x @ first + 0.3) @ second


def product(players: int, rng: np.random.Generator) -> Net:
    """Interactions of every order."""
    factors = rng.normal(size=players) * 0.5
    return lambda x: np.prod(1 + factors * x, axis=1)


def largest(players: int, rng: np.random.Generator) -> Net:
    """The largest of some terms."""
    weights = rng.normal(size=players)
    return lambda x: np.max(weights * x, axis=1)


def trees(players: int, rng: np.random.Generator) -> Net:
    """A sum of thirty trees of depth four."""
    chosen = [rng.choice(players, 4, replace=False) for _ in range(30)]
    signs, weights = rng.choice([-1, 1], size=(30, 4)), rng.normal(size=30)
    splits = rng.normal(size=(30, 4)) * 0.3

    def net(x: np.ndarray) -> np.ndarray:
        out = np.zeros(len(x))
        for places, sign, split, weight in zip(chosen, signs, splits, weights, strict=True):
            out += weight * np.all(x[:, places] * sign > split, axis=1)
        return out

    return net


GAMES = {"network": network, "product": product, "largest": largest, "trees": trees}


class Counted:
    """A model over NumPy arrays that counts its rows."""

    def __init__(self, net: Net) -> None:
        self.net, self.rows = net, 0

    def __call__(self, x: Any) -> np.ndarray:
        x = np.asarray(x, dtype=float)
        self.rows += len(x)
        return self.net(x)


def _torch(model: Counted) -> Any:
    import torch

    return lambda x: torch.from_numpy(model(x.numpy()))


def shap_kernel(model: Counted, x: np.ndarray, rows: int, seed: int) -> np.ndarray:
    import shap

    explainer = shap.KernelExplainer(model, np.zeros((1, x.shape[1])))
    model.rows = 0
    return explainer.shap_values(x, nsamples=rows, l1_reg=0, silent=True)[0]


def shap_permutation(model: Counted, x: np.ndarray, rows: int, seed: int) -> np.ndarray:
    import shap

    masker = shap.maskers.Independent(np.zeros((1, x.shape[1])))
    explainer = shap.explainers.Permutation(model, masker, seed=seed)
    model.rows = 0
    return explainer(x, max_evals=max(rows, 2 * x.shape[1] + 1), silent=True).values[0]


def shap_sampling(model: Counted, x: np.ndarray, rows: int, seed: int) -> np.ndarray:
    import shap

    explainer = shap.SamplingExplainer(model, np.zeros((1, x.shape[1])))
    model.rows = 0
    return explainer.shap_values(x, nsamples=rows, silent=True)[0]


def captum_kernel(model: Counted, x: np.ndarray, rows: int, seed: int) -> np.ndarray:
    import torch
    from captum.attr import KernelShap

    torch.manual_seed(seed)
    model.rows = 0
    explainer = KernelShap(_torch(model))
    return explainer.attribute(torch.from_numpy(x), n_samples=rows, perturbations_per_eval=64).numpy()[0]


def captum_sampling(model: Counted, x: np.ndarray, rows: int, seed: int) -> np.ndarray:
    import torch
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(seed)
    model.rows = 0
    explainer = ShapleyValueSampling(_torch(model))
    return explainer.attribute(torch.from_numpy(x), n_samples=max(1, rows // x.shape[1])).numpy()[0]


def tree(players: int) -> np.ndarray:
    """A hierarchy as shap and we take it."""
    from scipy.cluster.hierarchy import linkage

    return linkage(np.random.default_rng(players).normal(size=(players, 4)), "complete")


def shap_partition(model: Counted, x: np.ndarray, rows: int, seed: int) -> np.ndarray:
    import shap

    masker = shap.maskers.Partition(np.zeros((1, x.shape[1])), clustering=tree(x.shape[1]))
    explainer = shap.explainers.Partition(model, masker)
    model.rows = 0
    return explainer(x, max_evals=rows // 2, silent=True).values[0]


PEERS: dict[str, tuple[Any, type[xai.Explainer]]] = {
    "shap KernelExplainer": (shap_kernel, xai.KernelSHAP),
    "captum KernelShap": (captum_kernel, xai.KernelSHAP),
    "shap PermutationExplainer": (shap_permutation, xai.PermutationSHAP),
    "shap SamplingExplainer": (shap_sampling, xai.ShapleySampling),
    "captum ShapleyValueSampling": (captum_sampling, xai.ShapleySampling),
    "shap PartitionExplainer": (shap_partition, xai.PartitionSHAP),
}
SIZES = ((8, 60), (10, 120), (12, 200), (15, 400))
"""Players, and model rows."""
EXACT = 1e-20
"""Errors below this are rounding."""


@dataclass(frozen=True)
class Comparison:
    """Mean squared errors over seeds, in units of the mean square of the exact values."""

    peer: str
    ours: str
    game: str
    players: int
    rows: float
    error: float
    peer_error: float


def compare(peer: str, game: str, players: int, rows: int, seeds: int) -> Comparison:
    """Both at the rows that the peer used."""
    call, method = PEERS[peer]
    options, reference = {}, xai.ExactSHAP()
    if method is xai.PartitionSHAP:
        options = {"hierarchy": tree(players)}
        reference = xai.PartitionSHAP(**options, samples=10**6)
    ours, theirs, used, sizes = [], [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, players])
        model, x = Counted(GAMES[game](players, rng)), rng.normal(size=(1, players))
        exact = reference(model, x).values[0]
        np.random.seed(seed)  # what peers draw from
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = call(model, x, rows, seed)
        used.append(model.rows)
        model.rows = 0
        own = method(**options, samples=used[-1] - 2)(model, x, seed=seed)
        assert own.rows[0] <= used[-1] + 1
        sizes.append(np.mean(exact**2))
        theirs.append(np.mean((found - exact) ** 2))
        ours.append(np.mean((own.values[0] - exact) ** 2))
    scale = float(np.mean(sizes))
    errors = float(np.mean(ours)) / scale, float(np.mean(theirs)) / scale
    return Comparison(peer, method.__name__, game, players, float(np.mean(used)), *errors)


def ratio(found: list[Comparison]) -> float:
    """Mean of our errors over the mean of the peer's."""
    return sum(row.error for row in found) / sum(row.peer_error for row in found)


def main() -> None:
    print("| peer | here | game | features | rows | error | peer's | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for peer in PEERS:
        found = [compare(peer, game, players, rows, 20) for players, rows in SIZES for game in GAMES]
        for row in found:
            shown = [f"{error:.2g}" if error > EXACT else "exact" for error in (row.error, row.peer_error)]
            quotient = f"{row.error / row.peer_error:.2f}" if row.peer_error > EXACT else ""
            print(
                f"| {peer} | `{row.ours}` | {row.game} | {row.players} | {row.rows:.0f} | {' | '.join(shown)} | {quotient} |"
            )
        print(f"| **{peer}** | `{found[0].ours}` | mean of all | | | | | **{ratio(found):.2f}** |", flush=True)


if __name__ == "__main__":
    main()
