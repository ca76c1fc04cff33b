"""Time metrics against the plain loop of the model rows that they take, and against Quantus, in one run.

A batch of 32 images of 32 x 32 pixels, and a net of three convolutions, a row of which takes a third of a millisecond, or
ResNet-20 (`--net resnet20`). Metrics that explain anew do so with the plain gradient. Those that need no model are compared
with Quantus alone. `python -m benchmarks.quality`.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import argparse
import contextlib
import statistics
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import xai_core as xai
from benchmarks import models
from benchmarks.__main__ import best_batch, interleaved, median_ratio
from xai_core.metrics import all_metrics

LIMIT = 1.2
BATCH = 32
SLOWER = ("ROAD", "SoftmaxInformationCurve", "AccuracyInformationCurve")
"""What takes its time beside the model: a linear system for each image, compression."""
RANDOM = ("MPRT", "SmoothMPRT")
"""Metrics that explain several models, of which `curve` has a point for each."""

OPTIONS: dict[str, dict[str, Any]] = {
    "irof": {"score": "probability", "features": xai.Patches(4)},
    "average_drop": {"score": "probability"},
    "average_gain": {"score": "probability"},
    "sensitivity_n": {"samples": 20},
    "hyperparameter_sensitivity": {"option": "steps", "choices": (8, 16)},
    "non_sensitivity": {"features": xai.Patches(4)},
    "symmetry": {"features": xai.Patches(8)},
    "relative_representation_stability": {},
}


def case(framework: str, net: str = "cnn") -> models.Case:
    """A net of the other benchmark, with more inputs."""
    made = models.RESNETS_20[framework]() if net == "resnet20" else models.CASES[f"{framework}-cnn"]()
    xp = getattr(models.backend_of_array(made.x), "xp", np)
    several = xp.concat([made.x * (1.0 + 0.1 * number) for number in range(BATCH // int(made.x.shape[0]))])
    return replace(made, x=several)


def metrics() -> dict[str, Any]:
    """All metrics as they are timed."""
    return {kind.__name__: kind(**OPTIONS.get(name, {})) for name, kind in all_metrics().items()}


def explained(name: str, timed: models.Case) -> xai.Explanation:
    """The explanation that a metric judges."""
    explainer: xai.Explainer = xai.Gradient()
    if name == "HyperparameterSensitivity" or name == "Completeness":
        explainer = xai.IntegratedGradients(steps=8)
    return explainer(timed.model, timed.x, target=timed.target)


def masks() -> np.ndarray[Any, Any]:
    found = np.zeros((BATCH, 32, 32), dtype=bool)
    found[:, 8:20, 8:24] = True
    return found


def quantus(name: str, timed: models.Case, explanation: xai.Explanation) -> Callable[[], Any] | None:
    """The same by Quantus, with as much work where its options say how much, or `None` where it has none such."""
    if not timed.name.startswith("torch"):
        return None
    import torch

    models.torchvision()
    try:
        import quantus as peer
    except ImportError:
        return None

    def gradient(model: Any, inputs: Any, targets: Any, **_: Any) -> Any:
        x = torch.as_tensor(np.asarray(inputs), dtype=torch.float32).requires_grad_(True)
        scores = model(x)[torch.arange(len(x)), torch.as_tensor(np.asarray(targets))]
        return torch.autograd.grad(scores.sum(), x)[0].sum(1, keepdim=True).numpy()

    samples = {"nr_samples": 10}
    options: dict[str, dict[str, Any]] = {
        "PixelFlipping": {"features_in_step": 8},
        "RegionPerturbation": {"patch_size": 4, "regions_evaluation": 64},
        "Selectivity": {"patch_size": 4},
        "SensitivityN": {"features_in_step": 32, "n_max_percentage": 0.8},
        "FaithfulnessCorrelation": {"nr_runs": 100, "subset_size": 256},
        "FaithfulnessEstimate": {"features_in_step": 16},
        "Monotonicity": {"features_in_step": 16},
        "MonotonicityCorrelation": {"features_in_step": 16, "nr_samples": 10},
        "IROF": {},
        "ROAD": {"percentages": list(range(10, 100, 10))},
        "Infidelity": {"perturb_patch_sizes": [4], "n_perturb_samples": 2},
        "Sufficiency": {},
        "MaxSensitivity": samples,
        "AvgSensitivity": samples,
        "LocalLipschitzEstimate": samples,
        "Continuity": {"nr_steps": 4},
        "Consistency": {},
        "RelativeInputStability": samples,
        "RelativeOutputStability": samples,
        "RelativeRepresentationStability": samples,
        "PointingGame": {},
        "TopKIntersection": {},
        "RelevanceMassAccuracy": {},
        "RelevanceRankAccuracy": {},
        "AttributionLocalisation": {},
        "AUC": {},
        "Sparseness": {},
        "Complexity": {},
        "EffectiveComplexity": {},
        "MPRT": {},
        "SmoothMPRT": {"nr_samples": 10},
        "EfficientMPRT": {},
        "RandomLogit": {"num_classes": 10},
        "Completeness": {},
        "NonSensitivity": {"features_in_step": 16},
        "InputInvariance": {},
    }
    if name not in options:
        return None
    metric = getattr(peer, name)(**options[name], disable_warnings=True, display_progressbar=False)
    maps = explanation.numpy().values.sum(axis=1, keepdims=True)
    given = {
        "model": timed.model,
        "x_batch": timed.x.numpy(),
        "y_batch": np.full(BATCH, timed.target),
        "a_batch": maps,
        "s_batch": masks()[:, None].astype("float32"),
        "explain_func": gradient,
        "device": "cpu",
        "channel_first": True,
    }

    def run() -> None:
        with warnings.catch_warnings(), open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            warnings.simplefilter("ignore")
            metric(**given)

    return run


def measure(timed: models.Case, name: str, metric: Any, batches: list[int], repeats: int, with_peer: bool) -> str:
    """A line of the table; `batches` are the best ones of a loop forward, and forward and backward."""
    explanation = explained(name, timed)
    model = None if "model" not in metric.needs else timed.model
    given = {"masks": masks()} if "masks" in metric.needs else {}
    found = metric(model, explanation, **given)
    rows = found.rows
    functions = {"ours": lambda: metric(model, explanation, **given)}
    if rows[0]:
        # No call of a loop holds rows of several models.
        most = rows[1] // found.curve.shape[1] if name in RANDOM else rows[0]
        forward, both = (min(batch, most) for batch in batches)

        def loop() -> None:
            timed.loop(rows[1], rows[1], both)
            timed.loop(rows[0] - rows[1], 0, forward)

        functions["loop"] = loop
    peer = quantus(name, timed, explanation) if with_peer else None
    failed = ""
    if peer is not None:
        try:
            peer()
            functions["peer"] = peer
        except Exception as error:
            failed = f"   Quantus fails: {type(error).__name__}: {str(error)[:60]}"
    times = interleaved(functions, repeats)
    ratio = f"{median_ratio(times['ours'], times['loop']):8.2f}" if "loop" in times else " " * 8
    beside = f"{median_ratio(times['peer'], times['ours']):8.2f}" if "peer" in times else " " * 8
    above = "loop" in times and median_ratio(times["ours"], times["loop"]) > LIMIT and name not in SLOWER
    milliseconds = 1e3 * statistics.median(times["ours"])
    verdict = "   above the limit" if above else ""
    return (
        f"{timed.name:<20} {name:<32} {rows[0]:>6} {rows[1]:>6} {milliseconds:9.1f} {ratio} {beside}{verdict}{failed}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.quality", description=__doc__)
    parser.add_argument("--framework", action="append", choices=["torch", "jax", "tensorflow"])
    parser.add_argument("--net", default="cnn", choices=["cnn", "resnet20"])
    parser.add_argument("--metric", action="append", help="only this metric, repeatable")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="where PyTorch runs: cpu or cuda")
    parser.add_argument("--no-peer", action="store_true", help="without Quantus")
    chosen = parser.parse_args()
    models.DEVICE = chosen.device
    print(f"{'case':<20} {'metric':<32} {'rows':>6} {'back':>6} {'ms':>9} {'x loop':>8} {'peer x':>8}")
    for framework in chosen.framework or ["torch"]:
        timed = case(framework, chosen.net)
        batches = [best_batch(timed, 1024, backward) for backward in (False, True)]
        for name, metric in metrics().items():
            if name in (chosen.metric or [name]):
                print(measure(timed, name, metric, batches, chosen.repeats, not chosen.no_peer), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
