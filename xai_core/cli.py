"""Command line: `xai-core doctor | methods | metrics | layers | explain | evaluate | demo`."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import numpy as np

from xai_core.errors import InputError, ModelError, OptionError, XaiError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status, 2 for a mistake in what was asked."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except XaiError as error:
        print(f"xai-core: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xai-core", description="Explain trained models of JAX, PyTorch, TensorFlow and Keras."
    )
    parser.add_argument("--version", action="version", version=f"xai-core {version('xai-core')}")
    commands = parser.add_subparsers(title="commands", required=True)

    doctor = commands.add_parser("doctor", help="say which frameworks are installed and work")
    doctor.set_defaults(run=_doctor)

    methods = commands.add_parser("methods", help="list the explanation methods")
    methods.set_defaults(run=_methods)

    metrics = commands.add_parser("metrics", help="list the metrics")
    metrics.set_defaults(run=_metrics)

    explain = commands.add_parser("explain", help="explain a model at some inputs")
    explain.add_argument("model", help="package.module:object, a .keras file or a SavedModel folder")
    explain.add_argument("input", type=Path, help="inputs, batch first: a .npy file")
    explain.add_argument("--method", default="integrated_gradients")
    explain.add_argument("--target", type=int, help="class to explain; default: the predicted one")
    explain.add_argument("--seed", type=int, default=0)
    explain.add_argument("--backend", help="framework of a plain function")
    explain.add_argument("--batch-size", type=int)
    explain.add_argument(
        "-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="option of the method, repeatable"
    )
    explain.add_argument("--save", type=Path, help="write the explanation (.npz)")
    explain.add_argument("--plot", type=Path, help="write a picture (.png, .pdf, .svg)")
    explain.set_defaults(run=_explain)

    evaluate = commands.add_parser("evaluate", help="judge explanations of a model by metrics")
    evaluate.add_argument("model", help="package.module:object, a .keras file or a SavedModel folder")
    evaluate.add_argument("explanation", type=Path, nargs="+", help="what `explain --save` wrote (.npz)")
    evaluate.add_argument(
        "-m", "--metric", action="append", required=True, help="name of a metric, repeatable; see `xai-core metrics`"
    )
    evaluate.add_argument("--masks", type=Path, help="for metrics of localisation, (batch, height, width): a .npy file")
    evaluate.add_argument("--score", help="probability, log_probability or accuracy instead of what the model returns")
    evaluate.add_argument("--seed", type=int, help="default: that of each explanation")
    evaluate.add_argument("--backend", help="framework of a plain function")
    evaluate.add_argument("--batch-size", type=int)
    evaluate.add_argument("--csv", type=Path, help="write the score of each sample")
    evaluate.set_defaults(run=_evaluate)

    layers = commands.add_parser("layers", help="list the layers of a model that can be named")
    layers.add_argument("model", help="package.module:object, model.keras or a SavedModel folder")
    layers.add_argument("input", type=Path, help=".npy file of inputs, batch first")
    layers.add_argument("--backend", help="framework of a plain function")
    layers.add_argument("--ops", action="store_true", help="list the operations instead, as rules see them")
    layers.set_defaults(run=_layers)

    demo = commands.add_parser("demo", help="explain photographs in every installed framework and compare")
    demo.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="default: a cat and a cup of coffee")
    demo.add_argument("--out", type=Path, default=Path("report.html"), help="report to write (default: %(default)s)")
    demo.set_defaults(run=_demo)
    return parser


def _doctor(chosen: argparse.Namespace) -> int:
    from xai_core.backend import load_backend

    print(f"xai-core {version('xai-core')}, Python {platform.python_version()}, {platform.platform()}")
    working = 0
    for entry in sorted(entry_points(group="xai_core.backends"), key=lambda entry: entry.name):
        try:
            load_backend(entry.name)
        except (XaiError, ImportError) as error:
            print(f"  {entry.name:<11} missing   {str(error).splitlines()[-1].removeprefix('Fix: ')}")
            continue
        working += 1
        try:
            found = version(entry.name)
        except PackageNotFoundError:
            found = "?"
        print(f"  {entry.name:<11} {found:<9} works")
    return 0 if working else 1


def _methods(chosen: argparse.Namespace) -> int:
    from xai_core import methods

    for name, method in methods().items():
        summary = (method.__doc__ or "").strip().splitlines()[0]
        print(f"{name:<24} {'gradient' if method.differentiates else 'any model':<10} {summary}")
    return 0


def _explain(chosen: argparse.Namespace) -> int:
    import xai_core as xai

    model = xai.wrap(_model(chosen.model), backend=chosen.backend, batch_size=chosen.batch_size)
    x = _input(chosen.input)
    options = dict(_option(text) for text in chosen.option)
    explanation = xai.explain(model, x, method=chosen.method, target=chosen.target, seed=chosen.seed, **options)
    print(explanation)
    print(f"target   {explanation.target}\nscore    {explanation.score}")
    if explanation.residual is not None:
        print(f"residual {explanation.residual}")
    if chosen.save is not None:
        explanation.save(chosen.save)
    if chosen.plot is not None:
        explanation.plot(chosen.plot)
    return 0


def _metrics(chosen: argparse.Namespace) -> int:
    from xai_core.metrics import all_metrics

    kinds = sorted(all_metrics().items(), key=lambda item: (item[1].category, item[0]))
    for name, metric in kinds:
        better = {True: "higher", False: "lower", None: ""}[metric.higher_is_better]
        summary = (metric.__doc__ or "").strip().splitlines()[0]
        print(f"{metric.category:<14} {name:<34} {better:<7} {summary}")
    return 0


def _evaluate(chosen: argparse.Namespace) -> int:
    import xai_core as xai
    from xai_core.metrics import metric_class
    from xai_core.metrics.base import Scored

    kinds = [metric_class(name) for name in chosen.metric]
    options = {} if chosen.score is None else {"score": chosen.score}
    metrics = [kind(**(options if issubclass(kind, Scored) else {})) for kind in kinds]
    model = xai.wrap(_model(chosen.model), backend=chosen.backend, batch_size=chosen.batch_size)
    explanations = {path.stem: xai.load(path) for path in chosen.explanation}
    masks = None if chosen.masks is None else _input(chosen.masks)
    found = xai.evaluate(model, explanations, metrics, masks=masks, seed=chosen.seed)
    print(found)
    if chosen.csv is not None:
        found.to_pandas(samples=True).to_csv(chosen.csv)
    return 0


def _layers(chosen: argparse.Namespace) -> int:
    import xai_core as xai

    show = xai.graph if chosen.ops else xai.layers
    print(show(xai.wrap(_model(chosen.model), backend=chosen.backend), _input(chosen.input)))
    return 0


def _input(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The inputs could not be read: {error}", received=str(path), fix="numpy.save('x.npy', x)"
        ) from error


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise OptionError("An option is NAME=VALUE.", received=text, fix="-o steps=64")
    try:
        read = ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value
    if name in ("layer", "neuron") and read is not None:
        # Layers may have numbers for names.
        return name, tuple(map(str, read)) if isinstance(read, (tuple, list)) else read if isinstance(
            read, str
        ) else value
    return name, read


def _model(text: str) -> Any:
    """Load what a command line can name."""
    path = Path(text)
    if path.suffix == ".keras":
        return importlib.import_module("keras").saving.load_model(path)
    if path.is_dir():
        return importlib.import_module("tensorflow").saved_model.load(text)
    module, colon, attribute = text.partition(":")
    if colon:
        sys.path.insert(0, os.getcwd())
        try:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
            return found
        except (ImportError, AttributeError) as error:
            raise ModelError(f"The model could not be imported: {error}", received=text) from error
        finally:
            sys.path.remove(os.getcwd())
    raise ModelError(
        "The model was not found.", received=text, fix="package.module:object, model.keras, or a SavedModel folder"
    )


def _demo(chosen: argparse.Namespace) -> int:
    from xai_core.demo.run import run

    run(chosen.images, chosen.out)
    return 0
