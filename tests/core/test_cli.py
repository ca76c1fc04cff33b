"""The command line, with models that need no framework."""

from __future__ import annotations

import numpy as np
import pytest

import xai_core as xai
from xai_core.attribution.base import explainer_class
from xai_core.cli import _option, main
from xai_core.progress import Progress


@pytest.fixture(name="folder")
def _folder(tmp_path, monkeypatch):
    (tmp_path / "mymodel.py").write_text(
        "import numpy as np\ndef predict(x):\n    return x @ np.array([[1.0, -2.0], [0.0, 3.0]])\n"
    )
    np.save(tmp_path / "x.npy", np.ones((3, 2)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_explain_saves_and_prints(folder, capsys):
    arguments = ["explain", "mymodel:predict", "x.npy", "--method", "occlusion", "--target", "1", "-o", "baseline=0.5"]
    assert main([*arguments, "--save", "e.npz", "--batch-size", "2"]) == 0
    loaded = xai.load("e.npz")
    np.testing.assert_allclose(loaded.values, [[-1.0, 1.5]] * 3)
    assert loaded.explainer == xai.Occlusion(baseline=0.5)
    assert "target   [1 1 1]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["mymodel:predict", "missing.npy"], "could not be read"),
        (["mymodel:absent", "x.npy"], "could not be imported"),
        (["nothing", "x.npy"], "package.module:object"),
        (["mymodel:predict", "x.npy", "--method", "oclusion"], "'occlusion'"),
        (["mymodel:predict", "x.npy", "--method", "occlusion", "-o", "window"], "NAME=VALUE"),
        (["mymodel:predict", "x.npy", "--method", "occlusion", "-o", "size=3"], "no option"),
        (["mymodel:predict", "x.npy"], "gradients"),
    ],
)
def test_mistakes_end_with_status_2_and_the_fix(folder, capsys, arguments, word):
    assert main(["explain", *arguments]) == 2
    assert word in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "layer"),
    [
        ("1", "1"),
        ("('0', '1')", ("0", "1")),
        ("(0, 1)", ("0", "1")),
        ("'block.1'", "block.1"),
        ("b.1", "b.1"),
        ("1.1", "1.1"),
    ],
)
def test_layers_may_be_numbers(option, layer):
    assert _option(f"layer={option}") == ("layer", layer)


def test_methods_by_names_that_people_write():
    for name in ("GradCAM++", "gradcam++", "grad-cam-plus-plus", "GradCAMPlusPlus"):
        assert explainer_class(name) is xai.GradCAMPlusPlus
    assert explainer_class("ScoreCam") is xai.ScoreCAM
    with pytest.raises(xai.UnknownNameError, match="score_cam"):
        explainer_class("scorecamm")


def test_methods_and_doctor(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in xai.methods() if xai.methods()[name].__module__.startswith("xai_core"))
    assert main(["doctor"]) == 0
    assert "numpy" in capsys.readouterr().out


def test_progress_is_shown_after_two_seconds_and_only_then(monkeypatch):
    tqdm = pytest.importorskip("tqdm")
    made = []

    class Bar:
        def __init__(self, **options):
            made.append(options)
            self.rows = 0

        def update(self, rows):
            self.rows += rows

        def close(self):
            made.append(self.rows)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    found = xai.Occlusion()(lambda x: x @ np.ones(3), np.ones((4, 3)))
    assert made[0]["delay"] == 2.0
    assert made[0]["disable"] is None  # not where nobody watches
    assert made[-1] == found.rows[0]
    bar = Progress("x", None)
    bar.update(1)
    bar.close()
