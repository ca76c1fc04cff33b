"""The models that are timed, each with the plain loop of its framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partialmethod
from typing import Any

import numpy as np

import xai_core as xai
from xai_core.backend import backend_of_array

__all__ = ["CASES", "PASSES", "RESNETS_20", "Case", "explainers", "peer"]


@dataclass(frozen=True)
class Case:
    """A model, its inputs, and `loop(forward_rows, backward_rows, batch)`, which only runs the model."""

    name: str
    model: Any
    x: Any
    target: int
    loop: Callable[[int, int, int], None]
    wait: Callable[[Any], Any]
    limit: float | None
    steps: int
    largest_batch: int
    layer: str | None = None
    """A layer with maps, few enough for ScoreCAM."""
    rule_limit: float | None = None
    """For methods with backward rules on large models, which `PASSES` are compared with."""

    def several(self) -> Case:
        """The same with inputs enough for one run of the model on all of them to be worth timing."""
        if len(self.x) > 1:
            return self
        xp: Any = getattr(backend_of_array(self.x), "xp", np)
        return replace(self, x=xp.concat([self.x * (1.0 + 0.1 * number) for number in range(8)]))


DEVICE = "cpu"
"""Where the PyTorch cases run."""

PASSES = {
    "GuidedBackprop": (1, 1),
    "LRP": (1, 1),  # epsilon, by the pullbacks of the forward run
    "LRP EpsilonPlusFlat": (2, 1),  # z+ and flat: one more forward, with other weights, and their pullbacks
    "DeepLIFT": (2, 1),
}
"""Forward and backward passes per sample that the rules of a method say; all else that it does counts as overhead."""


REMOVING = (
    "Occlusion",
    "FeatureAblation",
    "KernelSHAP",
    "PermutationSHAP",
    "RISE",
    "LIME",
    "SobolAttribution",
    "HSICAttribution",
    "PredictionDifference",
)
"""Methods that only call the model: small ones, for which there is no other limit, are to stay within twice the loop."""
ONCE = ("Occlusion", "FeatureAblation")
"""Those with a row for each feature: of a small table so few that the handling of one call shows."""


def explainers(case: Case) -> dict[str, xai.Explainer]:
    """What is timed on a case."""
    background = -case.x[:1]  # not an input itself: values of zero ask for one more run, which looks why
    found: dict[str, xai.Explainer] = {
        "Gradient": xai.Gradient(),
        "IntegratedGradients": xai.IntegratedGradients(steps=case.steps),
        "SmoothGrad": xai.SmoothGrad(samples=case.steps),
        "ExpectedGradients": xai.ExpectedGradients(background=background, samples=case.steps),
    }
    if case.x.ndim == 4:
        size = int(case.x.shape[2]) // 4
        found["Occlusion"] = xai.Occlusion(window=size, stride=size)
        found["GuidedBackprop"] = xai.GuidedBackprop()
        found["LRP"] = xai.LRP()
        found["LRP EpsilonPlusFlat"] = xai.LRP(rules="epsilon_plus_flat")
        found["DeepLIFT"] = xai.DeepLIFT(baseline=background)
        samples = 4 * case.steps
        found["LIME"] = xai.LIME(samples=samples, features=xai.Patches(size // 2))
    else:
        samples = 2000
        found["Occlusion"] = xai.Occlusion()
        found["PermutationSHAP"] = xai.PermutationSHAP(samples=samples)
        found["LIME"] = xai.LIME(samples=samples, background=-case.x)
        found["PredictionDifference"] = xai.PredictionDifference(background=-case.x, samples=64, measure="difference")
    found["FeatureAblation"] = xai.FeatureAblation()
    found["KernelSHAP"] = xai.KernelSHAP(samples=samples)
    found["RISE"] = xai.RISE(samples=samples)
    found["SobolAttribution"] = xai.SobolAttribution(samples=samples)
    found["HSICAttribution"] = xai.HSICAttribution(samples=samples)
    if case.layer is not None:
        found["GradCAM"] = xai.GradCAM()
        found["ScoreCAM"] = xai.ScoreCAM(layer=case.layer)
    return found


def torchvision() -> None:
    """Make torchvision importable beside any PyTorch: its compiled operators are only declared, none is used."""
    import torch

    if not _LIBRARIES and DEVICE == "cpu":
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


def resnet18() -> Any:
    """torchvision's ResNet-18 with random weights."""
    import torch

    torchvision()
    from torchvision.models import resnet18 as build

    torch.manual_seed(0)
    return build().eval()


_LIBRARIES: list[Any] = []

RESNET18 = (
    (64, 64, 1),
    (64, 64, 1),
    (64, 128, 2),
    (128, 128, 1),
    (128, 256, 2),
    (256, 256, 1),
    (256, 512, 2),
    (512, 512, 1),
)
"""Channels in, channels out and stride of the blocks."""
RESNET20 = (*[(16, 16, 1)] * 3, (16, 32, 2), *[(32, 32, 1)] * 2, (32, 64, 2), *[(64, 64, 1)] * 2)
"""Those of the usual net for images of 32 x 32 pixels, He et al. 2016, arXiv:1512.03385, section 4.2; shortcuts of another
size are convolutions here."""


def _first(rows: Any, count: int) -> Any:
    """As many of the rows as are left to run."""
    return rows if count >= int(rows.shape[0]) else rows[:count]


def _torch_case(
    name: str, net: Any, shape: tuple[int, ...], limit: float | None, steps: int, largest: int, layer: str | None = None
) -> Case:
    import torch

    net = net.eval().to(DEVICE)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=shape).astype("float32")).to(DEVICE)
    cuda = DEVICE != "cpu"

    def wait(values: Any) -> Any:
        if cuda:
            torch.cuda.synchronize()
        return values

    def loop(forward: int, backward: int, batch: int) -> None:
        rows = x[torch.arange(batch) % len(x)]
        for start in range(0, backward, batch):
            part = _first(rows, backward - start).detach().requires_grad_(True)
            torch.autograd.grad(net(part)[:, 3].sum(), part)
        with torch.no_grad():
            for start in range(0, forward - backward, batch):
                net(_first(rows, forward - backward - start))
        wait(None)

    return Case(
        name, net, x, 3, loop, wait, limit, steps, 32 * largest if cuda else largest, layer, _rule_limit(shape, 1.3)
    )


def torch_resnet18() -> Case:
    batch = 1 if DEVICE == "cpu" else 32
    return _torch_case("torch ResNet-18 224", resnet18(), (batch, 3, 224, 224), 1.05, 32, 32, "layer1")


def torch_resnet20() -> Case:
    import torch
    from torch import nn

    def unit(made: int, out: int, size: int, stride: int = 1) -> Any:
        return nn.Sequential(nn.Conv2d(made, out, size, stride, size // 2, bias=False), nn.BatchNorm2d(out))

    class Block(nn.Module):
        def __init__(self, made: int, out: int, stride: int) -> None:
            super().__init__()
            self.a, self.b = unit(made, out, 3, stride), unit(out, out, 3)
            self.skip = unit(made, out, 1, stride) if stride > 1 else nn.Identity()
            self.first, self.last = nn.ReLU(), nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.last(self.b(self.first(self.a(x))) + self.skip(x))

    torch.manual_seed(0)
    blocks = [Block(*sizes) for sizes in RESNET20]
    net = nn.Sequential(
        unit(3, 16, 3), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    return _torch_case("torch ResNet-20 32", net, (8, 3, 32, 32), None, 64, 256)


def torch_cnn() -> Case:
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 64, 10),
    )  # fmt: skip
    return _torch_case("torch CNN 32", net, (8, 3, 32, 32), 1.3, 64, 512, "6")


def torch_mlp() -> Case:
    from torch import nn

    net = nn.Sequential(nn.Linear(30, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return _torch_case("torch MLP 30", net, (64, 30), None, 256, 1024)


def _rule_limit(shape: tuple[int, ...], limit: float) -> float | None:
    return limit if len(shape) == 4 and max(shape) > 100 else None


def _limit(shape: tuple[int, ...]) -> float | None:
    return None if len(shape) < 4 else 1.05 if shape[1] > 100 else 1.3


def _jax_case(name: str, net: Any, shape: tuple[int, ...], steps: int, largest: int, layer: str | None = None) -> Case:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    x = jnp.asarray(np.random.default_rng(0).normal(size=shape).astype("float32"))
    graph, state = nnx.split(net)
    step = jax.jit(jax.grad(lambda rows, held: jnp.sum(nnx.merge(graph, held)(rows)[:, 3])))
    forward_step = jax.jit(lambda rows, held: nnx.merge(graph, held)(rows)[:, 3])

    def loop(forward: int, backward: int, batch: int) -> None:
        rows = x[jnp.arange(batch) % len(x)]
        last: list[Any] = []
        for start in range(0, backward, batch):
            last = [step(_first(rows, backward - start), state)]
        for start in range(0, forward - backward, batch):
            last.append(forward_step(_first(rows, forward - backward - start), state))
        jax.block_until_ready(last)

    return Case(
        name, net, x, 3, loop, jax.block_until_ready, _limit(shape), steps, largest, layer, _rule_limit(shape, 1.15)
    )


def jax_cnn() -> Case:
    import jax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.a = nnx.Conv(3, 32, (3, 3), rngs=rngs)
            self.b = nnx.Conv(32, 32, (3, 3), rngs=rngs)
            self.c = nnx.Conv(32, 64, (3, 3), rngs=rngs)
            self.d = nnx.Linear(4096, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jax.nn.relu(self.b(jax.nn.relu(self.a(x))))
            x = jax.nn.relu(self.c(nnx.max_pool(x, (2, 2), (2, 2))))
            x = nnx.max_pool(x, (2, 2), (2, 2))
            return self.d(x.reshape(x.shape[0], -1))

    return _jax_case("JAX CNN 32", Net(), (8, 32, 32, 3), 64, 512, "c")


def jax_resnet18() -> Case:
    net = _jax_resnet(RESNET18, 7, 1000)
    return _jax_case("JAX ResNet-18 224", net, (1, 224, 224, 3), 32, 32, "blocks[1]")


def jax_resnet20() -> Case:
    return _jax_case("JAX ResNet-20 32", _jax_resnet(RESNET20, 3, 10), (8, 32, 32, 3), 64, 256)


def _jax_resnet(sizes: Sequence[tuple[int, int, int]], stem: int, classes: int) -> Any:
    """A ResNet of such blocks; where the first kernel is `stem` = 7 positions wide, it and a pooling halve the sides."""
    import jax
    from flax import nnx

    rngs = nnx.Rngs(0)

    class Unit(nnx.Module):
        def __init__(self, made: int, out: int, size: int, stride: int = 1) -> None:
            self.conv = nnx.Conv(made, out, (size, size), stride, padding=size // 2, use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(out, use_running_average=True, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.norm(self.conv(x))

    class Block(nnx.Module):
        def __init__(self, made: int, out: int, stride: int) -> None:
            self.a, self.b = Unit(made, out, 3, stride), Unit(out, out, 3)
            self.skip = Unit(made, out, 1, stride) if stride > 1 else None

        def __call__(self, x: Any) -> Any:
            short = x if self.skip is None else self.skip(x)
            return jax.nn.relu(self.b(jax.nn.relu(self.a(x))) + short)

    class ResNet(nnx.Module):
        def __init__(self) -> None:
            self.stem = Unit(3, sizes[0][0], stem, 2 if stem == 7 else 1)
            self.blocks = nnx.List([Block(*each) for each in sizes])
            self.head = nnx.Linear(sizes[-1][1], classes, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jax.nn.relu(self.stem(x))
            if stem == 7:
                x = nnx.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean((1, 2)))

    return ResNet()


def jax_mlp() -> Case:
    import jax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.a = nnx.Linear(30, 256, rngs=rngs)
            self.b = nnx.Linear(256, 256, rngs=rngs)
            self.c = nnx.Linear(256, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.c(jax.nn.relu(self.b(jax.nn.relu(self.a(x)))))

    return _jax_case("JAX MLP 30", Net(), (64, 30), 256, 1024)


def _tensorflow_case(name: str, net: Any, shape: tuple[int, ...], steps: int, largest: int) -> Case:
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))

    @tf.function  # type: ignore[untyped-decorator]
    def step(rows: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows)
            score = tf.reduce_sum(net(rows)[:, 3])
        return tape.gradient(score, rows)

    @tf.function  # type: ignore[untyped-decorator]
    def forward_step(rows: Any) -> Any:
        return net(rows)[:, 3]

    def loop(forward: int, backward: int, batch: int) -> None:
        rows = tf.gather(x, tf.range(batch) % x.shape[0])
        for start in range(0, backward, batch):
            step(_first(rows, backward - start))
        for start in range(0, forward - backward, batch):
            forward_step(_first(rows, forward - backward - start))

    return Case(
        name, net, x, 3, loop, lambda values: values, _limit(shape), steps, largest, None, _rule_limit(shape, 1.15)
    )


def tensorflow_cnn() -> Case:
    import tensorflow as tf

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(0)
            sizes = [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (4096, 10)]
            self.a, self.b, self.c, self.d = (
                tf.Variable((rng.normal(size=s) / np.sqrt(np.prod(s[:-1]))).astype("float32")) for s in sizes
            )

        def __call__(self, x: Any) -> Any:
            x = tf.nn.relu(tf.nn.conv2d(x, self.a, 1, "SAME"))
            x = tf.nn.relu(tf.nn.conv2d(x, self.b, 1, "SAME"))
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            x = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, self.c, 1, "SAME")), 2, 2, "VALID")
            return tf.matmul(tf.reshape(x, (tf.shape(x)[0], 4096)), self.d)

    return _tensorflow_case("TensorFlow CNN 32", Net(), (8, 32, 32, 3), 64, 512)


def tensorflow_resnet18() -> Case:
    net = _tensorflow_resnet(RESNET18, 7, 1000)
    return _tensorflow_case("TensorFlow ResNet-18 224", net, (1, 224, 224, 3), 32, 32)


def tensorflow_resnet20() -> Case:
    return _tensorflow_case("TensorFlow ResNet-20 32", _tensorflow_resnet(RESNET20, 3, 10), (8, 32, 32, 3), 64, 256)


def _tensorflow_resnet(sizes: Sequence[tuple[int, int, int]], stem: int, classes: int) -> Any:
    """As `_jax_resnet`."""
    import tensorflow as tf

    rng = np.random.default_rng(0)

    class Unit(tf.Module):  # type: ignore[misc]
        def __init__(self, made: int, out: int, size: int, stride: int = 1) -> None:
            super().__init__()
            self.stride, self.pad = stride, [[0, 0], *[[size // 2, size // 2]] * 2, [0, 0]]
            self.w = tf.Variable(
                rng.normal(size=(size, size, made, out), scale=(size * size * made) ** -0.5), dtype="float32"
            )
            self.norm = [tf.Variable(value * np.ones(out, "float32")) for value in (1, 0, 0, 1)]

        def __call__(self, x: Any) -> Any:
            x = tf.nn.conv2d(x, self.w, self.stride, self.pad)
            return tf.compat.v1.nn.fused_batch_norm(x, *self.norm, is_training=False)[0]

    class Block(tf.Module):  # type: ignore[misc]
        def __init__(self, made: int, out: int, stride: int) -> None:
            super().__init__()
            self.a, self.b = Unit(made, out, 3, stride), Unit(out, out, 3)
            self.skip = Unit(made, out, 1, stride) if stride > 1 else None

        def __call__(self, x: Any) -> Any:
            short = x if self.skip is None else self.skip(x)
            return tf.nn.relu(self.b(tf.nn.relu(self.a(x))) + short)

    class ResNet(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stem = Unit(3, sizes[0][0], stem, 2 if stem == 7 else 1)
            self.blocks = [Block(*each) for each in sizes]
            width = sizes[-1][1]
            self.head = tf.Variable(rng.normal(size=(width, classes), scale=width**-0.5).astype("float32"))

        def __call__(self, x: Any) -> Any:
            x = tf.nn.relu(self.stem(x))
            if stem == 7:
                x = tf.nn.max_pool2d(x, 3, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])
            for block in self.blocks:
                x = block(x)
            return tf.matmul(tf.reduce_mean(x, (1, 2)), self.head)

    return ResNet()


def tensorflow_mlp() -> Case:
    import tensorflow as tf

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            rng = np.random.default_rng(0)
            sizes = [(30, 256), (256, 256), (256, 10)]
            self.w = [tf.Variable((rng.normal(size=s) / np.sqrt(s[0])).astype("float32")) for s in sizes]

        def __call__(self, x: Any) -> Any:
            x = tf.nn.relu(tf.matmul(tf.nn.relu(tf.matmul(x, self.w[0])), self.w[1]))
            return tf.matmul(x, self.w[2])

    return _tensorflow_case("TensorFlow MLP 30", Net(), (64, 30), 256, 1024)


CASES: dict[str, Callable[[], Case]] = {
    "torch-resnet18": torch_resnet18,
    "torch-cnn": torch_cnn,
    "torch-mlp": torch_mlp,
    "jax-resnet18": jax_resnet18,
    "jax-cnn": jax_cnn,
    "jax-mlp": jax_mlp,
    "tensorflow-resnet18": tensorflow_resnet18,
    "tensorflow-cnn": tensorflow_cnn,
    "tensorflow-mlp": tensorflow_mlp,
}
RESNETS_20: dict[str, Callable[[], Case]] = {
    "torch": torch_resnet20,
    "jax": jax_resnet20,
    "tensorflow": tensorflow_resnet20,
}
"""What metrics are timed on beside the small nets, by framework."""


def grad_cam(case: Case, method: str) -> Callable[[], Any] | None:
    """The same map by pytorch-grad-cam, where it is installed."""
    try:
        import pytorch_grad_cam as peer
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return None
    from tqdm import tqdm

    name = case.layer if method == "ScoreCAM" else ("layer4" if "ResNet" in case.name else "6")
    targets = [ClassifierOutputTarget(case.target)] * int(case.x.shape[0])

    def run() -> Any:
        with getattr(peer, method)(model=case.model, target_layers=[case.model.get_submodule(name)]) as cam:
            return cam(input_tensor=case.x.clone(), targets=targets)

    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)  # type: ignore[method-assign]
    return run


def zennit(case: Case, method: str) -> Callable[[], Any] | None:
    """The same relevance by zennit, where it is installed."""
    import torch

    torchvision()  # which zennit imports
    try:
        from zennit import composites, rules, types
        from zennit.attribution import Gradient
        from zennit.canonizers import SequentialMergeBatchNorm
        from zennit.torchvision import ResNetCanonizer
    except ImportError:
        return None

    def start(output: Any) -> Any:
        return output * torch.eye(output.shape[1])[[case.target]]

    def run() -> Any:
        canonizers = [ResNetCanonizer() if "ResNet" in case.name else SequentialMergeBatchNorm()]
        if method == "LRP":
            layers = [(types.Activation, rules.Pass()), (types.Linear, rules.Epsilon())]
            composite = composites.LayerMapComposite(layers, canonizers=canonizers)
        else:
            composite = composites.EpsilonPlusFlat(canonizers=canonizers)
        with Gradient(case.model, composite) as attributor:
            return attributor(case.x, start)[1]

    return run


def shap_kernel(case: Case, explainer: Any) -> Callable[[], Any] | None:
    """shap's own regression, where it is installed."""
    try:
        import shap
    except ImportError:
        return None
    import torch

    def scores(rows: Any) -> Any:
        with torch.no_grad():
            return case.model(torch.from_numpy(rows.astype("float32")))[:, case.target].numpy()

    kernel = shap.KernelExplainer(scores, np.zeros((1, case.x.shape[1])))
    return lambda: kernel.shap_values(case.x.numpy(), nsamples=explainer.samples, l1_reg=0, silent=True)


def lime(case: Case, explainer: Any) -> Callable[[], Any] | None:
    """The same neighbours and fits by the package lime, where it is installed."""
    try:
        from lime.lime_tabular import LimeTabularExplainer
    except ImportError:
        return None
    import torch

    def scores(rows: Any) -> Any:
        with torch.no_grad():
            return case.model(torch.from_numpy(rows.astype("float32"))).numpy()

    x = case.x.numpy().astype("float64")
    table = LimeTabularExplainer(-x, discretize_continuous=False, mode="regression")

    def run() -> None:
        for row in x:
            table.explain_instance(
                row, lambda rows: scores(rows)[:, case.target], num_features=x.shape[1], num_samples=explainer.samples
            )

    return run


def peer(case: Case, method: str, explainer: xai.Explainer) -> Callable[[], Any] | None:
    """The same work by captum, zennit or pytorch-grad-cam at their best settings, where the model is torch and they can."""
    if not case.name.startswith("torch"):
        return None
    if method in ("GradCAM", "ScoreCAM"):
        return grad_cam(case, method)
    if method.startswith("LRP"):
        return zennit(case, method)
    try:
        from captum import attr
    except ImportError:
        return None
    import torch

    x, net = case.x, case.model
    target = case.target
    rows = 16 if x.ndim == 4 and x.shape[-1] > 100 else 512
    if method == "GuidedBackprop":
        return lambda: attr.GuidedBackprop(net).attribute(x.clone().requires_grad_(True), target=target)
    if method == "DeepLIFT" and "ResNet" not in case.name:  # captum refuses modules that are called twice
        return lambda: attr.DeepLift(net).attribute(x.clone().requires_grad_(True), -x[:1], target=target)
    if method == "Gradient":
        return lambda: attr.Saliency(net).attribute(x.clone().requires_grad_(True), target=target, abs=False)
    if method == "IntegratedGradients":
        return lambda: attr.IntegratedGradients(net).attribute(
            x, target=target, n_steps=case.steps, internal_batch_size=rows, return_convergence_delta=True
        )
    if method == "SmoothGrad":
        tunnel = attr.NoiseTunnel(attr.Saliency(net))
        return lambda: tunnel.attribute(
            x.clone().requires_grad_(True),
            nt_samples=case.steps,
            nt_samples_batch_size=max(1, rows // x.shape[0]),
            stdevs=0.5,
            target=target,
            abs=False,
        )
    if method == "ExpectedGradients":
        gradient_shap = attr.GradientShap(net)
        return lambda: gradient_shap.attribute(x, torch.zeros_like(x[:1]), n_samples=case.steps, target=target)
    if method == "FeatureAblation":
        features = torch.from_numpy(explainer(net, x[:1], target=target).features.labels[0]) if x.ndim == 4 else None
        evaluations = max(1, rows // x.shape[0])
        return lambda: attr.FeatureAblation(net).attribute(
            x, target=target, feature_mask=features, perturbations_per_eval=evaluations
        )
    if method in ("KernelSHAP", "LIME") and DEVICE == "cpu":  # captum fits on the CPU alone
        features = torch.from_numpy(explainer(net, x[:1], target=target).features.labels[0]) if x.ndim == 4 else None
        fit = attr.KernelShap(net) if method == "KernelSHAP" else attr.Lime(net)

        def fits() -> None:
            for row in x:  # captum fits one sample at a time
                fit.attribute(
                    row[None],
                    target=target,
                    feature_mask=features,
                    n_samples=explainer.samples,
                    perturbations_per_eval=rows,
                )

        return fits if x.ndim == 4 else (shap_kernel if method == "KernelSHAP" else lime)(case, explainer)
    if method == "Occlusion":
        if x.ndim == 4:
            size = int(x.shape[2]) // 4
            window, step = (x.shape[1], size, size), (x.shape[1], size, size)
        else:
            window, step = (1,), (1,)
        evaluations = max(1, rows // x.shape[0])
        return lambda: attr.Occlusion(net).attribute(
            x, window, strides=step, target=target, perturbations_per_eval=evaluations
        )
    return None
