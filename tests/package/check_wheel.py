"""Install the built wheel in a bare environment and use it: `python check_wheel.py FOLDER_WITH_WHEEL`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

EXPECTED = {"xai_core", "xai_numpy", "xai_jax", "xai_torch", "xai_tensorflow", "xai_keras"}

PROGRAM = """
import sys
import numpy as np
import xai_core as xai
from importlib.metadata import entry_points

assert not {"torch", "jax", "tensorflow", "keras"} & set(sys.modules), "importing xai_core imported a framework"
names = {entry.name for entry in entry_points(group="xai_core.backends")}
assert names == {"numpy", "jax", "torch", "tensorflow", "keras"}, names
weights = np.array([1.0, -2.0, 3.0])
found = xai.Occlusion()(lambda x: x @ weights, np.ones((2, 3)))
np.testing.assert_allclose(found.values, [weights, weights])
try:
    xai.wrap(lambda x: x, backend="jax")
except xai.BackendError as error:
    assert "pip install 'xai-core[jax]'" in str(error), error
else:
    raise AssertionError("a missing framework gave no error")
"""


def main() -> None:
    wheel = next(Path(sys.argv[1]).glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]}
    if tops != EXPECTED:
        raise SystemExit(f"the wheel holds {sorted(tops)}, expected {sorted(EXPECTED)}")
    for needed in ("xai_core/py.typed", "xai_core/cli.py"):
        if needed not in names:
            raise SystemExit(f"the wheel lacks {needed}")
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python")
        constraints = Path(__file__).parents[2] / "constraints.txt"
        install = [python, "-m", "pip", "install", "-q", "-c", str(constraints), str(wheel)]
        subprocess.run(install, check=True)
        subprocess.run([python, "-c", PROGRAM], check=True, cwd=folder)
        shown = subprocess.run(
            [str(Path(python).parent / "xai-core"), "methods"], check=True, cwd=folder, capture_output=True, text=True
        )
    if "integrated_gradients" not in shown.stdout:
        raise SystemExit(f"`xai-core methods` printed {shown.stdout!r}")
    print(f"{wheel.name}: {len(names)} files, works without a framework")


if __name__ == "__main__":
    main()
