"""Sessions: `nox` runs lint, core, tests, package and docs; `nox -s bench` and `nox -s demo` are run on demand."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "core", "tests", "package", "docs"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = True

# Waiting OpenMP threads must sleep: busy ones make torch on few cores many times slower.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
# Two processes share the cores, so that threads in each only get in the other's way; and what is compiled in tests runs
# a few times, so that compiling with care takes longer than it saves.
TESTING = {
    **ENVIRONMENT,
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}
FRAMEWORKS = ".[all,demo,dev]"
PARALLEL = ("-q", "-n", "2", "--dist", "worksteal")


def install(session: nox.Session, *arguments: str) -> None:
    """Install with the tested versions, unless the session runs in the caller's own environment."""
    if not isinstance(session.virtualenv, nox.virtualenv.PassthroughEnv):
        session.install("-c", "constraints.txt", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types and layering."""
    install(session, FRAMEWORKS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("pytest", "-q", "tests/core/test_layering.py", env=ENVIRONMENT)


@nox.session
def core(session: nox.Session) -> None:
    """Tests of the core, with no framework installed: it must import alone."""
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "venv", folder, external=True)
        python = str(Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python")
        session.run(
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "-c",
            "constraints.txt",
            ".[plot,images,test]",
            "scikit-learn",
            external=True,
        )
        session.run(python, "-m", "pytest", *PARALLEL, "tests/core", *session.posargs, env=TESTING, external=True)


@nox.session
def tests(session: nox.Session) -> None:
    """All other tests, all frameworks; those of Keras once for each of its backends."""
    install(session, FRAMEWORKS)
    # Quantus asks for a second build of OpenCV, which would overwrite the one that is there: without what it asks for.
    session.run("python", "-m", "pip", "install", "-q", "--no-deps", "-c", "constraints.txt", "quantus", "cachetools")
    if session.posargs:
        session.run("pytest", *session.posargs, env=TESTING)
        return
    session.run("pytest", *PARALLEL, "--ignore=tests/core", "--ignore=tests/keras_backends", env=TESTING)
    for backend in ("tensorflow", "jax", "torch"):
        session.run("pytest", *PARALLEL, "tests/keras_backends", env={**TESTING, "KERAS_BACKEND": backend})


@nox.session
def package(session: nox.Session) -> None:
    """The built wheel holds what it should and works when installed."""
    install(session, FRAMEWORKS)
    with tempfile.TemporaryDirectory() as folder:
        session.run("python", "-m", "build", "--wheel", "--outdir", folder, ".")
        session.run("python", "tests/package/check_wheel.py", folder, env=ENVIRONMENT)


@nox.session
def docs(session: nox.Session) -> None:
    """Site without warnings, notebooks executed."""
    install(session, FRAMEWORKS)
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html", env=ENVIRONMENT)


@nox.session
def bench(session: nox.Session) -> None:
    """Rows per second against a plain loop and against captum, side by side."""
    install(session, FRAMEWORKS)
    session.run("python", "-m", "benchmarks", *session.posargs, env=ENVIRONMENT)


@nox.session
def demo(session: nox.Session) -> None:
    """The main job: real photographs, three frameworks, one report."""
    install(session, FRAMEWORKS)
    session.run("xai-core", "demo", *session.posargs, env=ENVIRONMENT)
