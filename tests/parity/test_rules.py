"""The same relevance as zennit, captum and shap, and the same guided gradients as they and PAIR's saliency.

The first part compares where the peers are right; where a constant or a convention differs, the test says so and sets it.
The second part, `docs/peers.md` in tests, holds the cases in which a peer is not: its answer is asserted as it is, ours by
completeness, by the formula of the paper, by hand, or by the same model written in another way.

All in double precision, where both sides allow it; stabilisers are the same on both sides or too small to count.
"""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from frameworks import need
from torchvision_models import resnet18

import xai_core as xai
from xai_core import rules
from xai_core.testing import assert_close

need("torch", "torchvision", "captum", "zennit", "shap")

import torch
from captum import attr
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from torch import nn
from torch.nn import functional

resnet18()  # declares the operators without which torchvision, and with it zennit, cannot be imported
import zennit.composites as zc
import zennit.rules as zr
from torchvision.models import vgg
from zennit.attribution import Gradient
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.layer import Sum
from zennit.torchvision import ResNetCanonizer
from zennit.types import Activation, AvgPool, Linear

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # matplotlib, of how shap makes its colours
    import shap

# The peers warn that they set hooks and flags on the model and the inputs, shap of modules that it does not know.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting (forward, )?backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:unrecognized nn.Module:UserWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning"),
]

TARGET = [1, 3]
TINY = 1e-12
SMALL = {"relative": 1e-6}


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def settled(net, seed=0):
    """Double precision, evaluation, biases and batch statistics that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    net = net.double().eval()
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, (nn.Conv2d, nn.Conv1d, nn.Linear)):
                fan = part.weight[0].numel()
                part.weight.normal_(0, (2 / fan) ** 0.5, generator=generator)
                if part.bias is not None:
                    part.bias.normal_(0, 0.3, generator=generator)
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.2, generator=generator)
                part.running_var.uniform_(0.3, 2.0, generator=generator)
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.normal_(0, 0.2, generator=generator)
                part.eps = TINY  # see test_zennit_changes_a_model_with_batch_norm
    return net


class Vgg(nn.Module):
    """Convolutions, ReLU, pooling, dense layers; captum's LRP knows no `nn.Flatten`."""

    def __init__(self, pool=nn.MaxPool2d, bias=True, norm=False):
        super().__init__()
        between = [nn.BatchNorm2d(8)] if norm else []
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=bias), *between, nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=bias), nn.ReLU(), pool(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=bias), nn.ReLU(), nn.AvgPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Linear(64, 20, bias=bias), nn.ReLU(), nn.Linear(20, 5, bias=bias))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Mlp(nn.Module):
    """Two hidden layers, with ReLU as modules, one module, in place, or a function."""

    def __init__(self, how="modules"):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        if callable(how):
            self.first = self.second = how
        else:
            self.first = nn.ReLU(inplace=how == "in place")
            self.second = self.first if how == "reused" else nn.ReLU(inplace=how == "in place")

    def forward(self, x):
        return self.c(self.second(self.b(self.first(self.a(x)))))


class Written(nn.Module):
    """A model by its parts and a function of them."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


X = drawn(2, 3, 8, 8, seed=1)
BASELINE = drawn(2, 3, 8, 8, seed=2)
ROW, ROW_BASELINE = drawn(2, 6, seed=3), drawn(2, 6, seed=4)


@pytest.fixture(scope="module", name="net")
def _net():
    return settled(Vgg())


def scores(net, x, target=TARGET):
    with torch.no_grad():
        return net(x)[range(len(x)), target]


def sums(values):
    return values.detach().flatten(1).sum(1)


def by_zennit(net, composite, x, target=TARGET, unit=False):
    """zennit distributes what it is given as output gradient: the score, as relevance does, or 1."""

    def start(output):
        chosen = torch.eye(output.shape[1], dtype=output.dtype)[target]
        return chosen if unit else output * chosen

    with Gradient(net, composite) as attributor:
        return attributor(x, start)[1]


# zennit stabilises average pooling and sums too, where we divide by nothing.
EXACT_SUMS = [(AvgPool, zr.Norm(stabilizer=TINY)), (Sum, zr.Norm(stabilizer=TINY))]


def everywhere(rule):
    return zc.LayerMapComposite([(Activation, zr.Pass()), *EXACT_SUMS, (Linear, rule)])


def by_captum(net, rule, x, target=TARGET, layer=None, other=EpsilonRule):
    """captum takes rules as attributes of modules, for one call."""
    net = copy.deepcopy(net)
    for name, part in net.named_modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.rule = rule(name)
        elif isinstance(part, (nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d)):
            part.rule = other(TINY)
    if layer is not None:
        return attr.LayerLRP(net, net.get_submodule(layer)).attribute(x.clone(), target=target).detach()
    return attr.LRP(net).attribute(x.clone(), target=target).detach()


def by_shap(net, x, baseline, target=TARGET, check=False):
    """One sample at a time, each against its own baseline."""
    found = [
        shap.DeepExplainer(net, baseline[i : i + 1]).shap_values(x[i : i + 1], check_additivity=check)[0, ..., t]
        for i, t in enumerate(target)
    ]
    return torch.from_numpy(np.stack(found))


# Where peers are right: zennit

RULES = {
    "epsilon": (rules.Epsilon(TINY), zr.Epsilon(epsilon=TINY)),
    "large epsilon": (rules.Epsilon(0.25), zr.Epsilon(epsilon=0.25)),
    "gamma": (rules.Gamma(0.25), zr.Gamma(gamma=0.25)),
    "alpha 2 beta 1": (rules.AlphaBeta(2.0, 1.0), zr.AlphaBeta(alpha=2.0, beta=1.0)),
    "z+": (rules.ZPlus(), zr.ZPlus()),
    "z+ without bias": (rules.ZPlus(bias=False), zr.ZPlus(zero_params="bias")),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_of_zennit(net, name):
    ours, theirs = RULES[name]
    assert_close(xai.LRP(rules=ours)(net, X, target=TARGET).values, by_zennit(net, everywhere(theirs), X), **SMALL)


FIRST = {
    "z box": (rules.ZBox(-3.0, 3.0), lambda: zr.ZBox(-3.0, 3.0)),
    # The paper's formula has no bias, whose square zennit counts among the weights'.
    "w squared": (rules.WSquare(), lambda: zr.WSquare(zero_params="bias")),
    "flat": (rules.Flat(), lambda: zr.Flat()),
}


@pytest.mark.parametrize("name", FIRST)
def test_rule_of_zennit_for_the_first_layer(net, name):
    ours, theirs = FIRST[name]
    composite = zc.SpecialFirstLayerMapComposite(
        [(Activation, zr.Pass()), *EXACT_SUMS, (Linear, zr.ZPlus())], [(Linear, theirs())]
    )
    found = xai.LRP(rules={"first": ours, "linear": rules.ZPlus()})(net, X, target=TARGET)
    assert_close(found.values, by_zennit(net, composite, X), **SMALL)


COMPOSITES = {
    "EpsilonPlus": (rules.EpsilonPlus(), zc.EpsilonPlus, {}),
    "EpsilonPlusFlat": (rules.EpsilonPlusFlat(), zc.EpsilonPlusFlat, {}),
    "EpsilonAlpha2Beta1": (rules.EpsilonAlpha2Beta1(), zc.EpsilonAlpha2Beta1, {}),
    "EpsilonAlpha2Beta1Flat": (rules.EpsilonAlpha2Beta1Flat(), zc.EpsilonAlpha2Beta1Flat, {}),
    "EpsilonGammaBox": (rules.EpsilonGammaBox(-4.0, 4.0), zc.EpsilonGammaBox, {"low": -4.0, "high": 4.0}),
}


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_of_zennit(net, name):
    ours, theirs, options = COMPOSITES[name]
    expected = by_zennit(net, theirs(layer_map=EXACT_SUMS, **options), X)
    assert_close(xai.LRP(rules=ours)(net, X, target=TARGET).values, expected, **SMALL)


@pytest.fixture(scope="module", name="vgg11")
def _vgg11():
    """torchvision's VGG-11 with batch norm, a smaller classifier behind it."""
    head = [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(512 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 5)]
    return settled(nn.Sequential(vgg.make_layers(vgg.cfgs["A"], batch_norm=True), *head))


@pytest.mark.parametrize("name", COMPOSITES)
def test_composite_of_zennit_on_a_vgg_with_batch_norm(vgg11, name):
    """zennit needs a canonizer for batch norm, which we fold by ourselves."""
    ours, theirs, options = COMPOSITES[name]
    x = drawn(1, 3, 64, 64)
    composite = theirs(layer_map=EXACT_SUMS, canonizers=[SequentialMergeBatchNorm()], **options)
    assert_close(xai.LRP(rules=ours)(vgg11, x, target=1).values, by_zennit(vgg11, composite, x, [1]), **SMALL)


@pytest.fixture(scope="module", name="resnet")
def _resnet():
    net = resnet18()
    net.fc = nn.Linear(512, 5)
    return settled(net)


@pytest.mark.parametrize("name", ["EpsilonPlus", "EpsilonPlusFlat"])
def test_composite_of_zennit_on_a_resnet(resnet, name):
    """zennit needs a canonizer for this very architecture; without it see test_relevance_is_created_at_skips."""
    ours, theirs, _ = COMPOSITES[name]
    x = drawn(1, 3, 64, 64)
    composite = theirs(layer_map=EXACT_SUMS, canonizers=[ResNetCanonizer()])
    assert_close(xai.LRP(rules=ours)(resnet, x, target=1).values, by_zennit(resnet, composite, x, [1]), **SMALL)


def test_excitation_backprop_of_zennit(net):
    """The paper has no bias: zennit's is told so."""
    expected = by_zennit(net, zc.ExcitationBackprop(layer_map=EXACT_SUMS, zero_params="bias"), X, unit=True)
    assert_close(xai.ExcitationBackprop()(net, X, target=TARGET).values, expected, **SMALL)


@pytest.mark.parametrize(
    ("ours", "zennits", "captums"),
    [
        (xai.GuidedBackprop(), zc.GuidedBackprop, attr.GuidedBackprop),
        (xai.Deconvnet(), zc.DeconvNet, attr.Deconvolution),
    ],
    ids=["guided", "deconvolution"],
)
def test_gradients_through_relu(net, ours, zennits, captums):
    found = ours(net, X, target=TARGET).values
    assert_close(found, by_zennit(net, zennits(), X, unit=True), relative=1e-12)
    assert_close(found, captums(net).attribute(X.clone(), target=TARGET).detach(), relative=1e-12)


# Where peers are right: captum


def test_lrp_of_captum(net):
    for epsilon in (TINY, 0.25):
        expected = by_captum(net, lambda _: EpsilonRule(epsilon), X)  # noqa: B023
        assert_close(xai.LRP(rules=rules.Epsilon(epsilon))(net, X, target=TARGET).values, expected, **SMALL)


@pytest.mark.parametrize("layer", ["features.4", "features.5", "classifier.0"])
def test_layer_lrp_of_captum(net, layer):
    expected = by_captum(net, lambda _: EpsilonRule(TINY), X, layer=layer)
    found = xai.LRP(rules=rules.Epsilon(TINY), layer=layer)(net, X, target=TARGET)
    assert_close(found.values, expected, **SMALL)


def test_positive_rules_of_captum():
    """Right for data that is not negative, layers without bias and results that are not negative."""
    net, x = settled(Vgg(bias=False)), X.abs()
    plus = by_captum(net, lambda _: Alpha1_Beta0_Rule(), x)
    assert_close(xai.LRP(rules=rules.ZPlus(TINY))(net, x, target=TARGET).values, plus, **SMALL)
    gamma = by_captum(net, lambda name: EpsilonRule(TINY) if name == "classifier.2" else GammaRule(0.25), x)
    ours = {"last": rules.Epsilon(TINY), "linear": rules.Gamma(0.25, TINY)}
    assert_close(xai.LRP(rules=ours)(net, x, target=TARGET).values, gamma, **SMALL)


@pytest.fixture(scope="module", name="smooth")
def _smooth():
    """No activation stands directly before max pooling: see test_captum_loses_rules_that_follow_each_other."""
    return settled(Vgg(pool=nn.AvgPool2d))


def test_deep_lift_of_captum(smooth):
    for baseline in (0.0, 0.3, BASELINE):
        given = baseline if isinstance(baseline, float) else baseline.clone()
        expected = attr.DeepLift(smooth).attribute(X.clone(), given, target=TARGET).detach()
        assert_close(xai.DeepLIFT(baseline=baseline)(smooth, X, target=TARGET).values, expected, relative=1e-9)


def test_deep_lift_shap_of_captum(smooth):
    background = drawn(5, 3, 8, 8, seed=7)
    expected = attr.DeepLiftShap(smooth).attribute(X.clone(), background, target=TARGET).detach()
    assert_close(xai.DeepSHAP(background=background)(smooth, X, target=TARGET).values, expected, relative=1e-9)


@pytest.mark.parametrize("layer", ["features.4", "features.5", "classifier.0"])
def test_layer_deep_lift_of_captum(smooth, layer):
    theirs = attr.LayerDeepLift(smooth, smooth.get_submodule(layer))
    expected = theirs.attribute(X.clone(), BASELINE.clone(), target=TARGET).detach()
    found = xai.DeepLIFT(baseline=BASELINE, layer=layer)(smooth, X, target=TARGET)
    assert_close(found.values, expected, relative=1e-9)


# Where peers are right: shap and PAIR


def test_deep_explainer_of_shap_on_torch_dense_nets():
    net, background = settled(Mlp()), drawn(7, 6, seed=8)
    expected = shap.DeepExplainer(net, background).shap_values(ROW)
    assert expected.shape == (2, 6, 5)
    for target in range(5):
        found = xai.DeepSHAP(background=background)(net, ROW, target=target)
        assert_close(found.values, expected[..., target], relative=1e-9)


def test_deep_explainer_of_shap_with_max_pooling(net):
    found = xai.DeepLIFT(baseline=BASELINE)(net, X, target=TARGET)
    assert_close(found.values, by_shap(net, X, BASELINE, check=True), relative=1e-9)


def test_deep_explainer_of_shap_on_keras_dense_nets():
    need("tensorflow", "keras")
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("shap reads Keras models on TensorFlow")
    layers = keras.layers
    net = keras.Sequential(
        [layers.Input((6,)), layers.Dense(8, "relu"), layers.Dense(8), layers.Activation("tanh"), layers.Dense(3)]
    )
    rng = np.random.default_rng(0)
    for weight in net.weights:
        weight.assign(rng.normal(size=weight.shape))
    x, background = (rng.normal(size=(rows, 6)).astype("float32") for rows in (4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shap, of the version of TensorFlow; Keras, of how shap calls the model
        expected = shap.DeepExplainer(net, background).shap_values(x)
    assert expected.shape == (4, 6, 3)
    for target in range(3):
        found = xai.DeepSHAP(background=background)(net, x, target=target)
        assert_close(found.values, expected[..., target], relative=1e-5)


PAIR = {"relu": lambda tf, x: tf.nn.relu(x), "maximum": lambda tf, x: tf.maximum(x, 0.0)}


def by_pair(kind, x, folder):
    """PAIR's guided backpropagation, which wants a graph and session of TensorFlow 1; ours; and the gradient."""
    need("tensorflow", "saliency")
    import saliency.tf1 as pair
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shapes = [(3, 3, 3, 8), (8,), (3, 3, 8, 8), (8,), (128, 5), (5,)]
    held = [(0.4 * rng.normal(size=shape)).astype("float32") for shape in shapes]
    relu = PAIR[kind]

    def net(x, w):
        x = relu(tf, tf.nn.conv2d(x, w[0], 1, "SAME") + w[1])
        x = tf.nn.max_pool2d(relu(tf, tf.nn.conv2d(x, w[2], 1, "SAME") + w[3]), 2, 2, "VALID")
        return tf.reshape(x, (-1, 128)) @ w[4] + w[5]

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.held = [tf.Variable(array) for array in held]

        def __call__(self, x):
            return net(x, self.held)

    masks, graph = [], tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        images = tf.compat.v1.placeholder(tf.float32, (None, 8, 8, 3))
        variables = [tf.compat.v1.get_variable(f"w{i}", initializer=w, use_resource=False) for i, w in enumerate(held)]
        out = net(images, variables)
        session.run([variable.initializer for variable in variables])
        for image, target in zip(x, TARGET, strict=True):
            theirs = pair.GuidedBackprop(graph, session, out[0, target], images, tmp_ckpt_path=str(folder / "weights"))
            masks.append(theirs.GetMask(image, feed_dict={}))
    model, given = Module(), tf.constant(x)
    return (
        np.stack(masks),
        xai.GuidedBackprop()(model, given, target=TARGET).values,
        xai.Gradient()(model, given, target=TARGET).values,
    )


def test_guided_backprop_of_pair(tmp_path):
    theirs, ours, _ = by_pair("relu", np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32"), tmp_path)
    assert_close(ours, theirs)


# Where peers differ: activations that hooks do not see

FUNCTIONS = {
    "F.relu": functional.relu,
    "torch.relu": torch.relu,
    "clamp": lambda x: x.clamp(min=0),
    "made in forward": lambda x: nn.ReLU()(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_relu_escapes_hooks(name):
    """captum and zennit return the plain gradient without a word, captum's DeepLIFT misses the change of the score."""
    net, plain = settled(Mlp(FUNCTIONS[name])), settled(Mlp())
    gradient = xai.Gradient()(plain, ROW, target=TARGET).values
    guided = attr.GuidedBackprop(plain).attribute(ROW.clone(), target=TARGET).detach()
    assert float((guided - gradient).abs().max()) > 0.1
    assert_close(attr.GuidedBackprop(net).attribute(ROW.clone(), target=TARGET).detach(), gradient, relative=1e-12)
    assert_close(by_zennit(net, zc.GuidedBackprop(), ROW, unit=True), gradient, relative=1e-12)
    assert_close(xai.GuidedBackprop()(net, ROW, target=TARGET).values, guided, relative=1e-12)

    change = scores(net, ROW) - scores(net, ROW_BASELINE)
    lift = attr.DeepLift(net).attribute(ROW.clone(), ROW_BASELINE.clone(), target=TARGET)
    assert float((sums(lift) - change).abs().min()) > 0.01
    with pytest.raises(AssertionError, match="do not sum up"):
        by_shap(net, ROW, ROW_BASELINE, check=True)
    found = xai.DeepLIFT(baseline=ROW_BASELINE)(net, ROW, target=TARGET)
    assert_close(sums(found.values), change, relative=1e-9)
    assert_close(found.values, by_shap(plain, ROW, ROW_BASELINE, check=True), relative=1e-9)


def test_guided_backprop_of_pair_knows_one_operation_alone(tmp_path):
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype("float32")
    theirs, ours, gradient = by_pair("maximum", x, tmp_path)
    assert_close(theirs, gradient)
    assert_close(ours, by_pair("relu", x, tmp_path)[1])
    assert float(np.abs(theirs - ours.numpy()).max()) > 0.1


@pytest.mark.parametrize("how", ["reused", "in place"])
def test_relu_reused_or_in_place(how):
    """Right or refused in captum and zennit, lost in shap."""
    net, plain = settled(Mlp(how)), settled(Mlp())
    expected = xai.DeepLIFT(baseline=ROW_BASELINE)(plain, ROW, target=TARGET).values
    assert_close(xai.DeepLIFT(baseline=ROW_BASELINE)(net, ROW, target=TARGET).values, expected, relative=1e-12)
    lift = attr.DeepLift(copy.deepcopy(net))
    if how == "reused":
        with pytest.raises(RuntimeError, match="used more than once"):
            lift.attribute(ROW.clone(), ROW_BASELINE.clone(), target=TARGET)
        with pytest.raises(AssertionError, match="do not sum up"):
            by_shap(copy.deepcopy(net), ROW, ROW_BASELINE, check=True)
    else:
        found = lift.attribute(ROW.clone(), ROW_BASELINE.clone(), target=TARGET).detach()
        assert_close(found, expected, relative=1e-9)
        with pytest.raises(RuntimeError, match="modified inplace"):
            by_shap(copy.deepcopy(net), ROW, ROW_BASELINE)
    guided = xai.GuidedBackprop()(net, ROW, target=TARGET).values
    assert_close(guided, by_zennit(net, zc.GuidedBackprop(), ROW, unit=True), relative=1e-12)
    assert_close(guided, xai.GuidedBackprop()(plain, ROW, target=TARGET).values, relative=1e-12)


@pytest.mark.parametrize(
    ("module", "function"), [(nn.Tanh, torch.tanh), (nn.SiLU, functional.silu)], ids=["tanh", "silu"]
)
def test_functional_activations_in_lrp(module, function):
    """LRP passes relevance through activations; one that is a function gets its gradient in zennit and captum."""
    plain, net = (settled(Mlp(act)) for act in (module(), function))
    ours = [xai.LRP(rules=rules.Epsilon(TINY))(model, ROW, target=TARGET).values for model in (plain, net)]
    assert_close(ours[1], ours[0], relative=1e-12)
    assert_close(ours[0], by_zennit(plain, everywhere(zr.Epsilon(epsilon=TINY)), ROW), **SMALL)
    functional = by_zennit(net, everywhere(zr.Epsilon(epsilon=TINY)), ROW)
    assert_close(by_captum(net, lambda _: EpsilonRule(TINY), ROW), functional, **SMALL)
    assert float((functional - ours[1]).norm() / ours[1].norm()) > 0.2


# Where peers differ: sums, products, normalisation


def test_relevance_is_created_at_skips(resnet):
    """`f(x) = x + 2 x`, at 1: of the relevance 3 the skip contributes 1 and the layer 2; zennit and captum give each all."""
    net = settled(Written(lambda self, x: x + self.layer(x), layer=nn.Linear(1, 1, bias=False)))
    with torch.no_grad():
        net.layer.weight.fill_(2.0)
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(xai.LRP()(net, one, target=0).values) == pytest.approx(3.0, rel=1e-5)
    assert float(by_zennit(net, zc.EpsilonPlus(), one, [0])) == pytest.approx(6.0, rel=1e-5)
    assert float(by_captum(net, lambda _: EpsilonRule(TINY), one, 0)) == pytest.approx(6.0, rel=1e-5)

    x = drawn(1, 3, 64, 64)
    score = scores(resnet, x, [1])
    created = sums(by_zennit(resnet, zc.EpsilonPlus(canonizers=[SequentialMergeBatchNorm()]), x, [1]))
    assert float((created / score).abs().min()) > 50.0
    assert float((sums(xai.LRP(rules="epsilon_plus")(resnet, x, target=1).values) / score).abs().max()) < 1.5


def gated(bias=True):
    parts = {name: nn.Linear(6, 8, bias=bias) for name in ("a", "b")}
    return Written(lambda m, x: m.c(m.a(x) * m.q(m.b(x))), **parts, c=nn.Linear(8, 5, bias=bias), q=nn.Sigmoid())


def normalised(bias=True):
    return nn.Sequential(nn.Linear(6, 8, bias=bias), nn.LayerNorm(8, bias=bias), nn.ReLU(), nn.Linear(8, 5, bias=bias))


def attending():
    def run(m, x):
        h = x.unflatten(1, (3, 2))
        return m.c((torch.softmax(m.q(h) @ m.k(h).mT, -1) @ m.v(h)).flatten(1))

    return Written(run, q=nn.Linear(2, 4), k=nn.Linear(2, 4), v=nn.Linear(2, 4), c=nn.Linear(12, 5))


@pytest.mark.parametrize("make", [gated, normalised], ids=["gate", "layer norm"])
def test_relevance_at_products_and_normalisation(make):
    """Without bias LRP conserves the score: so do we, by AttnLRP; zennit takes gradients."""
    net = settled(make(bias=False))
    score = scores(net, ROW)
    assert_close(sums(xai.LRP(rules=rules.Epsilon(TINY))(net, ROW, target=TARGET).values), score, **SMALL)
    theirs = sums(by_zennit(net, everywhere(zr.Epsilon(epsilon=TINY)), ROW))
    assert float(((theirs - score) / score).abs().min()) > 0.3


GATES = {
    "sigmoid": torch.sigmoid,
    "module": nn.Hardsigmoid(),
    "written out": lambda x: nn.functional.relu6(x + 3) / 6,
    "quotient": lambda x: 1 / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("name", GATES)
def test_gates_count_as_constants(name):
    """What a gate is made of gets nothing, however it is spelled, so that no relevance is divided by next to nothing."""
    parts = {part: nn.Linear(6, 8, bias=False) for part in ("a", "b")}
    net = settled(Written(lambda m, x: m.c(m.a(x) * GATES[name](m.b(x))), **parts, c=nn.Linear(8, 5, bias=False)))
    for row, target in zip(ROW.split(1), TARGET, strict=True):
        gate = GATES[name](net.b(row)).detach()
        open_net = settled(Written(lambda m, x, gate=gate: m.c(m.a(x) * gate), a=net.a, c=net.c))
        found = xai.LRP(rules="zero")(net, row, target=target)
        assert_close(found.values, xai.LRP(rules="zero")(open_net, row, target=target).values, relative=1e-9)
        assert_close(sums(found.values), scores(net, row, [target]), relative=1e-9)
        assert len(found.coverage["gate"]) == 1
    # Of two factors of which both or none is a gate, each gets half.
    both = settled(Written(lambda m, x: m.c(torch.sigmoid(m.a(x)) * GATES[name](m.b(x))), a=net.a, b=net.b, c=net.c))
    assert len(xai.LRP()(both, ROW, target=TARGET).coverage["uniform"]) == 1


UNKNOWN = {
    "gate": gated,
    "layer norm": normalised,
    "attention": attending,
    "silu": lambda: nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 5)),
    "gelu": lambda: nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_deep_lift_where_a_peer_has_no_rule(name):
    """captum takes gradients there and says nothing, unless its gap is asked for; shap notices, and knows GELU."""
    net = settled(UNKNOWN[name]())
    change = scores(net, ROW) - scores(net, ROW_BASELINE)
    found = xai.DeepLIFT(baseline=ROW_BASELINE)(net, ROW, target=TARGET)
    assert_close(sums(found.values), change, relative=1e-9)
    assert_close(found.residual, torch.zeros(2), relative=1e-9)
    theirs = sums(attr.DeepLift(net).attribute(ROW.clone(), ROW_BASELINE.clone(), target=TARGET))
    assert float(((theirs - change) / change).abs().max()) > 0.2
    if name == "gelu":
        assert_close(found.values, by_shap(net, ROW, ROW_BASELINE, check=True), relative=1e-9)
        return
    with pytest.raises(AssertionError, match="do not sum up"):
        by_shap(net, ROW, ROW_BASELINE, check=True)


def test_softmax():
    """A logit that stays has no part in what another changes. captum's rule averages over the batch, shap's has each
    probability depend on its own logit alone."""
    net = nn.Softmax(-1).eval()
    x = torch.tensor([[0.0, 2.0, 1.0], [1.0, -1.0, 0.5]], dtype=torch.float64)
    start = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    model = nn.Sequential(nn.Identity(), net)
    change = scores(model, x, [0, 0]) - scores(model, start, [0, 0])
    found = xai.DeepLIFT(baseline=start)(model, x, target=0).values
    assert_close(sums(found), change, relative=1e-9)
    assert_close(found[0], torch.stack([0 * change[0], change[0], 0 * change[0]]), relative=1e-9)
    assert_close(by_shap(model, x, start, [0, 0])[0], torch.zeros(3))
    with pytest.raises(AssertionError, match="do not sum up"):
        by_shap(model, x, start, [0, 0], check=True)

    net = settled(nn.Sequential(nn.Linear(6, 8), nn.Softmax(-1), nn.Linear(8, 5)))
    both, one = (
        attr.DeepLift(net).attribute(ROW[:n].clone(), ROW_BASELINE[:n].clone(), target=TARGET[:n]).detach()
        for n in (2, 1)
    )
    assert float((both[0] - one[0]).norm() / one.norm()) > 0.1
    ours = [xai.DeepLIFT(baseline=ROW_BASELINE[:n])(net, ROW[:n], target=TARGET[:n]).values for n in (2, 1)]
    assert_close(ours[0][:1], ours[1], relative=1e-9)


def test_captum_loses_rules_that_follow_each_other():
    """In captum a max pooling or activation directly behind another gets its plain gradient. The maxima of two windows
    change from 2 and 4 to 3 and 2, by 1 of element 0 and by -2 of element 2."""
    net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 1))
    net = net.double().eval()
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[4].weight.fill_(1.0)
    x, start = (torch.tensor([[row]], dtype=torch.float64) for row in ([3.0, 1.0, 0.0, 2.0], [1.0, 2.0, 4.0, 0.0]))
    ours = xai.DeepLIFT(baseline=start)(net, x, target=0)
    assert_close(ours.values, torch.tensor([[[1.0, 0.0, -2.0, 0.0]]]), relative=1e-9)
    assert_close(ours.values, by_shap(net, x, start, [0], check=True), relative=1e-9)
    theirs, gap = attr.DeepLift(net).attribute(x, start, target=0, return_convergence_delta=True)
    assert_close(theirs.detach(), torch.tensor([[[2.0, 0.0, 0.0, 2.0]]]), relative=1e-9)
    assert float(gap) == pytest.approx(5.0)


# Where peers differ: batch norm and bias


def fused(net):
    """The same function with batch norm made part of the convolution before it, by PyTorch."""
    net = copy.deepcopy(net)
    convolution, norm, *rest = net.features
    net.features = nn.Sequential(nn.utils.fuse_conv_bn_eval(convolution, norm), *rest)
    return net


BATCH_NORM = {
    "z+": (rules.ZPlus(TINY), lambda name: Alpha1_Beta0_Rule(), zr.ZPlus),
    "gamma": (rules.Gamma(0.25, TINY), lambda name: GammaRule(0.25), zr.Gamma),
}


@pytest.mark.parametrize("name", BATCH_NORM)
def test_batch_norm_is_part_of_the_layer_before(name):
    """One function has one explanation, whether or not batch norm was folded in: for captum it has two, and for zennit
    without a canonizer."""
    ours, captums, zennits = BATCH_NORM[name]
    net = settled(Vgg(norm=True))
    same = fused(net)
    found = xai.LRP(rules=ours)(net, X, target=TARGET).values
    assert_close(found, xai.LRP(rules=ours)(same, X, target=TARGET).values, relative=1e-9)
    assert_close(found, by_zennit(same, everywhere(zennits(stabilizer=TINY)), X), **SMALL)
    captum = [by_captum(model, captums, X) for model in (net, same)]
    assert float((captum[0] - captum[1]).norm() / captum[1].norm()) > 0.1
    bare = zc.EpsilonPlus(layer_map=[*EXACT_SUMS, (Linear, zennits(stabilizer=TINY))])
    zennit = [by_zennit(model, bare, X) for model in (net, same)]
    assert_close(zennit[1], found, **SMALL)
    assert float((zennit[0] - zennit[1]).norm() / zennit[1].norm()) > 0.05


def test_zennit_changes_a_model_with_batch_norm():
    """Its canonizer leaves the epsilon of batch norm behind, and so divides by it twice: 5e-6 of each layer's result."""
    net = settled(Vgg(norm=True))
    net.features[1].eps = 1e-2  # usually 1e-5: the same, not as easily seen
    composite = zc.EpsilonPlus(canonizers=[SequentialMergeBatchNorm()])
    with torch.no_grad(), composite.context(net) as canonized:
        changed = canonized(X)
    with torch.no_grad():
        assert float((changed - net(X)).norm() / net(X).norm()) > 1e-3
        assert_close(fused(net)(X), net(X), relative=1e-9)


def single(weight, bias=None):
    net = nn.Linear(len(weight), 1, bias=bias is not None).double().eval()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([weight]))
        if bias is not None:
            net.bias.fill_(bias)
    return nn.Sequential(net)


BY_HAND = {
    # Products 1, 1 and -1: half of the score 1 to each positive one. captum drops the weights -1, not the negative product.
    "data of either sign": (
        rules.ZPlus(TINY), Alpha1_Beta0_Rule, [1.0, -1.0, 1.0], [1.0, -1.0, -1.0], None, [0.5, 0.5, 0], [1, 0, 0],
    ),
    # z+ = 1: a negative bias is not among the positive parts, and x gets the score, 0.5. captum divides by 1 - 0.5.
    "negative bias": (rules.ZPlus(TINY), Alpha1_Beta0_Rule, [1.0], [1.0], -0.5, [0.5], [1]),
    # Montavon et al. count the bias as a weight of 1: 4 and -1 of 4 - 1 + 2 parts of the score 2. captum: of 4 - 1 + 1.
    "gamma and bias": (
        rules.Gamma(1.0, TINY), lambda: GammaRule(1.0), [1.0, 1.0], [2.0, -1.0], 1.0, [1.6, -0.4], [2, -0.5],
    ),
    # The result is -2: what lowers it, -3, counts twice, so 1 and -6 of -5 of the score. captum doubles 1 in all cases.
    "gamma, negative result": (
        rules.Gamma(1.0, TINY), lambda: GammaRule(1.0), [1.0, 1.0], [1.0, -3.0], None, [0.4, -2.4], [4, -6],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_rules_by_hand(name):
    ours, captums, x, weight, bias, expected, theirs = BY_HAND[name]
    net, given = single(weight, bias), torch.tensor([x], dtype=torch.float64)
    found = xai.LRP(rules=ours)(net, given, target=0).values
    assert_close(found, torch.tensor([expected]), **SMALL)
    zennits = zr.ZPlus() if isinstance(ours, rules.ZPlus) else zr.Gamma(gamma=1.0)
    assert_close(found, by_zennit(net, everywhere(zennits), given, [0]), relative=1e-5)
    assert_close(by_captum(net, lambda _: captums(), given, 0), torch.tensor([theirs]), **SMALL)
