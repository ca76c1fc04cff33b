"""Slow, literal restatements of the papers on backward rules: relevance `R`, multipliers `m`, one sample at a time.

Linear layers are matrices of inputs by outputs, found by writing down every product of a convolution; what flows back
through one is a sum over the matrix of products `x_i w_ij`. The nets are those of `rulenets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rulenets

_Host = np.ndarray[Any, Any]
Rule = Callable[[_Host, "Linear", _Host], _Host]
"""`rule(x, layer, R) -> R` of the inputs."""


def over(a: Any, b: Any) -> _Host:
    """a / b, zero where b is."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(b.shape), where=b != 0)


def away(z: _Host, epsilon: float) -> _Host:
    return z + epsilon * np.where(z < 0, -1.0, 1.0)


# Layers


@dataclass(frozen=True)
class Linear:
    """`z_j = sum_i x_i w_ij + b_j`; `joined` says which inputs a unit has."""

    w: _Host
    b: _Host
    joined: _Host


@dataclass(frozen=True)
class Relu:
    pass


@dataclass(frozen=True)
class MaxPool:
    groups: list[list[int]]


@dataclass(frozen=True)
class Residual:
    """x + inner(x)."""

    inner: Linear


Layers = Sequence[Any]


def dense(weights: Any) -> Linear:
    w = weights.weight.astype(float)
    b = np.zeros(w.shape[1]) if weights.bias is None else weights.bias.astype(float)
    return Linear(w, b, np.ones_like(w))


def place(height: int, width: int, channel: int, sizes: tuple[int, int, int]) -> int:
    return (height * sizes[1] + width) * sizes[2] + channel


def convolution(weights: Any, side: int, norm: Any = None) -> Linear:
    """A padded 3 x 3 convolution of a square image as a matrix, batch norm folded in."""
    kernel = weights.weight.astype(float)
    into, out = kernel.shape[2:]
    bias = np.zeros(out) if weights.bias is None else weights.bias.astype(float)
    scale, shift = np.ones(out), np.zeros(out)
    if norm is not None:
        scale = norm.scale.astype(float) / np.sqrt(norm.variance.astype(float) + rulenets.EPSILON)
        shift = norm.shift - norm.mean * scale
    before, after = (side, side, into), (side, side, out)
    w, joined = np.zeros((2, side * side * into, side * side * out))
    b = np.zeros(side * side * out)
    for i, j, o in np.ndindex(*after):
        unit = place(i, j, o, after)
        b[unit] = bias[o] * scale[o] + shift[o]
        for di, dj, c in np.ndindex(3, 3, into):
            if 0 <= i + di - 1 < side and 0 <= j + dj - 1 < side:
                source = place(i + di - 1, j + dj - 1, c, before)
                w[source, unit] = kernel[di, dj, c, o] * scale[o]
                joined[source, unit] = 1.0
    return Linear(w, b, joined)


def windows(side: int, channels: int) -> list[list[int]]:
    """Elements of 2 x 2 windows, in the order of the results."""
    sizes = (side, side, channels)
    return [
        [place(2 * i + di, 2 * j + dj, c, sizes) for di in range(2) for dj in range(2)]
        for i, j, c in np.ndindex(side // 2, side // 2, channels)
    ]


@dataclass(frozen=True)
class Average:
    groups: list[list[int]]


def layers_of(net: str) -> Layers:
    """The nets `dense`, `conv` and `plain`."""
    held = rulenets.held(net)
    if net == "dense":
        return [dense(held["one"]), Relu(), dense(held["two"]), Relu(), dense(held["out"])]
    return [
        convolution(held["conv1"], 8, held["bn1"]),
        Relu(),
        convolution(held["conv2"], 8),
        Relu(),
        MaxPool(windows(8, 4)),
        Residual(convolution(held["conv3"], 4, held["bn3"])),
        Relu(),
        Average(windows(4, 4)),
        dense(held["out"]),
    ]


def run(layer: Any, x: _Host) -> _Host:
    if isinstance(layer, Linear):
        return x @ layer.w + layer.b
    if isinstance(layer, Residual):
        return x + run(layer.inner, x)
    if isinstance(layer, Relu):
        return np.maximum(x, 0)
    reduced = max if isinstance(layer, MaxPool) else np.mean
    return np.array([reduced(x[group]) for group in layer.groups])


def values(layers: Layers, x: _Host) -> list[_Host]:
    """The input and what every layer makes."""
    found = [x.reshape(-1).astype(float)]
    for layer in layers:
        found.append(run(layer, found[-1]))
    return found


def one_hot(size: int, target: int, height: float = 1.0) -> _Host:
    start = np.zeros(size)
    start[target] = height
    return start


# Layer-wise relevance propagation


def distribute(products: _Host, total: _Host, R: _Host) -> _Host:
    """`R_i = sum_j products_ij / total_j R_j`."""
    return (over(products, total[None, :]) * R[None, :]).sum(1)


def zero(x: _Host, layer: Linear, R: _Host) -> _Host:
    products = x[:, None] * layer.w
    return distribute(products, products.sum(0) + layer.b, R)


def epsilon(size: float) -> Rule:
    def rule(x: _Host, layer: Linear, R: _Host) -> _Host:
        products = x[:, None] * layer.w
        return distribute(products, away(products.sum(0) + layer.b, size), R)

    return rule


def gamma(size: float, damping: float = 1e-6) -> Rule:
    """What agrees with the sign of the result counts more."""

    def rule(x: _Host, layer: Linear, R: _Host) -> _Host:
        products, b = x[:, None] * layer.w, layer.b
        sign = np.where(products.sum(0) + b > 0, 1.0, -1.0)
        favoured = products + size * sign * np.maximum(sign * products, 0)
        total = favoured.sum(0) + b + size * sign * np.maximum(sign * b, 0)
        return distribute(favoured, away(total, damping), R)

    return rule


def alpha_beta(alpha: float, beta: float, bias: bool = True, damping: float = 1e-6) -> Rule:
    def rule(x: _Host, layer: Linear, R: _Host) -> _Host:
        products, b = x[:, None] * layer.w, layer.b * bias
        up, down = np.maximum(products, 0), np.minimum(products, 0)
        raised, lowered = up.sum(0) + np.maximum(b, 0), down.sum(0) + np.minimum(b, 0)
        return alpha * distribute(up, raised + damping, R) - beta * distribute(down, lowered - damping, R)

    return rule


def box(low: float, high: float, damping: float = 1e-6) -> Rule:
    def rule(x: _Host, layer: Linear, R: _Host) -> _Host:
        w = layer.w
        products = x[:, None] * w - low * np.maximum(w, 0) - high * np.minimum(w, 0)
        return distribute(products, away(products.sum(0), damping), R)

    return rule


def w_square(x: _Host, layer: Linear, R: _Host) -> _Host:
    return distribute(layer.w**2, (layer.w**2).sum(0), R)


def flat(x: _Host, layer: Linear, R: _Host) -> _Host:
    return distribute(layer.joined, layer.joined.sum(0), R)


def excitation(x: _Host, layer: Linear, R: _Host) -> _Host:
    """Activities are not negative, weights below zero do not count."""
    assert (x >= 0).all()
    products = x[:, None] * np.maximum(layer.w, 0)
    return distribute(products, products.sum(0) + 1e-6, R)


def relevance(layers: Layers, x: _Host, start: _Host, rules: Sequence[Rule], damping: float = 0.0) -> _Host:
    """Relevance of the input; `rules` of the linear layers in order.

    `damping` stabilises averages, where relevance comes that is not in proportion to the value.
    """
    held = values(layers, x)
    R, remaining = start, list(rules)
    for layer, a, z in zip(layers[::-1], held[-2::-1], held[:0:-1], strict=True):
        if isinstance(layer, Linear):
            R = remaining.pop()(a, layer, R)
        elif isinstance(layer, Residual):
            inner = run(layer.inner, a)
            # In proportion to the two addends.
            R = over(a, z) * R + remaining.pop()(a, layer.inner, over(inner, z) * R)
        elif not isinstance(layer, Relu):
            before, R = R, np.zeros_like(a)
            for unit, group in enumerate(layer.groups):
                if isinstance(layer, MaxPool):
                    R[max(group, key=lambda i: a[i])] += before[unit]
                else:
                    R[group] += over(a[group] / len(group), away(z[unit], damping)) * before[unit]
    assert not remaining
    return R.reshape(x.shape)


def lrp(net: str, x: _Host, target: int, rules: Sequence[Rule], damping: float = 0.0) -> _Host:
    """Relevance of a batch; a rule for each linear layer."""
    layers = layers_of(net)
    found = []
    for sample in x:
        scores = values(layers, sample)[-1]
        found.append(relevance(layers, sample, one_hot(len(scores), target, scores[target]), rules, damping))
    return np.stack(found)


def excitation_backprop(net: str, x: _Host, target: int, contrastive: bool) -> _Host:
    layers = layers_of(net)
    count = sum(isinstance(layer, (Linear, Residual)) for layer in layers)
    rules: list[Rule] = [excitation] * count

    def from_top(a: _Host, layer: Linear, P: _Host) -> _Host:
        against = Linear(-layer.w, layer.b, layer.joined)
        return excitation(a, layer, P) - excitation(a, against, P)

    if contrastive:
        rules[-1] = from_top
    scores = len(values(layers, x[0])[-1])
    damping = 1e-6 if contrastive else 0.0
    return np.stack([relevance(layers, sample, one_hot(scores, target), rules, damping) for sample in x])


# Gradients with another rule at ReLU


def backpropagated(net: str, x: _Host, target: int, only_active: bool) -> _Host:
    """Guided backpropagation, or without `only_active` the deconvolution net."""
    layers, found = layers_of(net), []
    for sample in x:
        held = values(layers, sample)
        g = one_hot(len(held[-1]), target)
        for layer, a in zip(layers[::-1], held[-2::-1], strict=True):
            if isinstance(layer, Relu):
                g = np.where(g > 0, g, 0) * ((a > 0) if only_active else 1)
            elif isinstance(layer, Linear):
                g = layer.w @ g
            elif isinstance(layer, Residual):
                g = g + layer.inner.w @ g
            else:
                before, g = g, np.zeros_like(a)
                for unit, group in enumerate(layer.groups):
                    if isinstance(layer, MaxPool):
                        g[max(group, key=lambda i: a[i])] += before[unit]
                    else:
                        g[group] += before[unit] / len(group)
        found.append(g.reshape(sample.shape))
    return np.stack(found)


# DeepLIFT


def deep_lift(net: str, x: _Host, baseline: _Host, target: int) -> _Host:
    """Contributions by the linear rule, the rescale rule and, at max pooling, the winner of the run that has more."""
    if net == "block":
        return np.stack([Block(sample).lifted(Block(baseline), target) for sample in x])
    layers, found = layers_of(net), []
    for sample in x:
        held, start = values(layers, sample), values(layers, baseline)
        m = one_hot(len(held[-1]), target)
        for k in range(len(layers) - 1, -1, -1):
            layer, a, a0 = layers[k], held[k], start[k]
            change = held[k + 1] - start[k + 1]
            if isinstance(layer, Linear):
                m = layer.w @ m
            elif isinstance(layer, Residual):
                m = m + layer.inner.w @ m
            elif isinstance(layer, Relu):
                m = over(change, a - a0) * m
            else:
                before, m = m, np.zeros_like(a)
                for unit, group in enumerate(layer.groups):
                    if isinstance(layer, MaxPool):
                        larger = a if change[unit] >= 0 else a0
                        winner = max(group, key=lambda i: larger[i])
                        m[winner] += over(change[unit], a[winner] - a0[winner]) * before[unit]
                    else:
                        m[group] += before[unit] / len(group)
        found.append((held[0] - start[0]).reshape(sample.shape) * m.reshape(sample.shape))
    return np.stack(found)


# The transformer block


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))


class Block:
    """A run of the net `block` on one sample (positions, features), with every value on the way."""

    def __init__(self, x: _Host) -> None:
        self.held = {
            name: type(weights)(*(array.astype(float) for array in weights))
            for name, weights in rulenets.held("block").items()
        }
        self.x = x.astype(float)
        self.n1 = self.norm("norm1", self.x)
        self.q, self.k, self.v = (self.linear(name, self.n1) for name in ("query", "key", "value"))
        width = self.q.shape[1] // rulenets.HEADS
        self.heads = [slice(h * width, (h + 1) * width) for h in range(rulenets.HEADS)]
        self.s = [self.q[:, h] @ self.k[:, h].T / math.sqrt(width) for h in self.heads]
        self.root = math.sqrt(width)
        self.p = [np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in self.s]
        self.o = np.concatenate([p @ self.v[:, h] for p, h in zip(self.p, self.heads, strict=True)], axis=1)
        self.attended = self.linear("projection", self.o)
        self.y = self.x + self.attended
        self.n2 = self.norm("norm2", self.y)
        self.up, self.gate = self.linear("up", self.n2), self.linear("gate", self.n2)
        self.bent = np.vectorize(gelu)(self.up)
        self.gated = self.bent * self.gate
        self.down = self.linear("down", self.gated)
        self.z = self.y + self.down
        self.mean = self.z.mean(0, keepdims=True)
        self.scores = self.linear("out", self.mean)[0]

    def norm(self, name: str, x: _Host) -> _Host:
        centred = x - x.mean(1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(1, keepdims=True) + rulenets.EPSILON)
        return centred / deviation * self.held[name].scale + self.held[name].shift

    def linear(self, name: str, x: _Host) -> _Host:
        return x @ self.held[name].weight + self.held[name].bias

    # AttnLRP

    def back_linear(self, name: str, x: _Host, R: _Host) -> _Host:
        rule = epsilon(1e-6)
        return np.stack([rule(a, dense(self.held[name]), r) for a, r in zip(x, R, strict=True)])

    def back_norm(self, name: str, x: _Host, out: _Host, R: _Host) -> _Host:
        """The shift takes its part, the deviation is a constant (proposition 3.4), the centring is linear."""
        found = np.zeros_like(x)
        for t in range(len(x)):
            centred = x[t] - x[t].mean()
            kept = over(out[t] - self.held[name].shift, out[t]) * R[t]
            for j in range(len(centred)):
                for i in range(len(centred)):
                    weight = (1.0 if i == j else 0.0) - 1 / len(centred)
                    found[t, i] += x[t, i] * weight / centred[j] * kept[j]
        return found

    def relevance(self, target: int) -> _Host:
        R = one_hot(len(self.scores), target, self.scores[target])[None]
        R = self.back_linear("out", self.mean, R)
        R = over(self.z, self.z.sum(0, keepdims=True)) * R
        down, R_y = over(self.down, self.z) * R, over(self.y, self.z) * R
        R_gated = self.back_linear("down", self.gated, down)
        # Half to either factor (proposition 3.3); GELU passes on.
        R_n2 = self.back_linear("up", self.n2, R_gated / 2) + self.back_linear("gate", self.n2, R_gated / 2)
        R_y = R_y + self.back_norm("norm2", self.y, self.n2, R_n2)
        R_x, R_attended = over(self.x, self.y) * R_y, over(self.attended, self.y) * R_y
        R_o = self.back_linear("projection", self.o, R_attended)
        R_q, R_k, R_v = (np.zeros_like(self.q) for _ in range(3))
        for h, s, p in zip(self.heads, self.s, self.p, strict=True):
            q, k, v, o = self.q[:, h], self.k[:, h], self.v[:, h], self.o[:, h]
            R_p, R_s = np.zeros_like(p), np.zeros_like(p)
            for t, u, d in np.ndindex(*p.shape, v.shape[1]):
                part = p[t, u] * v[u, d] / (2 * o[t, d]) * R_o[:, h][t, d]
                R_p[t, u] += part
                R_v[:, h][u, d] += part
            for t in range(len(s)):
                for u in range(len(s)):
                    R_s[t, u] = s[t, u] * (R_p[t, u] - p[t, u] * R_p[t].sum())  # proposition 3.1
            for t, u, d in np.ndindex(*s.shape, q.shape[1]):
                part = q[t, d] * k[u, d] / self.root / (2 * s[t, u]) * R_s[t, u]
                R_q[:, h][t, d] += part
                R_k[:, h][u, d] += part
        R_n1 = sum(self.back_linear(name, self.n1, R) for name, R in (("query", R_q), ("key", R_k), ("value", R_v)))
        return R_x + self.back_norm("norm1", self.x, self.n1, R_n1)

    # DeepLIFT

    def lift_norm(self, name: str, x: _Host, x0: _Host, m: _Host) -> _Host:
        """`centred * root`, with `root = 1 / sqrt(mean of centred^2 + epsilon)` by the chain of its parts.

        Centred values change first, at the smaller one of both roots, then the root.
        """
        found = np.zeros_like(x)
        size = x.shape[1]
        for t in range(len(x)):
            c, c0 = x[t] - x[t].mean(), x0[t] - x0[t].mean()
            v, v0 = (c**2).mean() + rulenets.EPSILON, (c0**2).mean() + rulenets.EPSILON
            root, root0 = v**-0.5, v0**-0.5
            slope = m[t] * self.held[name].scale
            if root <= root0:
                m_c, m_root = slope * root, (slope * c0).sum()
            else:
                m_c, m_root = slope * root0, (slope * c).sum()
            m_v = (root - root0) / (v - v0) * m_root
            m_c = m_c + (c**2 - c0**2) / (c - c0) / size * m_v
            found[t] = m_c - m_c.mean()
        return found

    def lifted(self, start: Block, target: int) -> _Host:
        def weights(name: str) -> _Host:
            return self.held[name].weight

        m = weights("out") @ one_hot(len(self.scores), target)
        m_y = np.stack([m / len(self.x)] * len(self.x))
        m_gated = m_y @ weights("down").T
        # A product is linear in either factor, the other one half way.
        m_bent, m_gate = m_gated * (self.gate + start.gate) / 2, m_gated * (self.bent + start.bent) / 2
        m_up = m_bent * (self.bent - start.bent) / (self.up - start.up)
        m_n2 = m_up @ weights("up").T + m_gate @ weights("gate").T
        m_y = m_y + self.lift_norm("norm2", self.y, start.y, m_n2)
        m_o = m_y @ weights("projection").T
        m_q, m_k, m_v = (np.zeros_like(self.q) for _ in range(3))
        for number, h in enumerate(self.heads):
            s, s0, p, p0 = self.s[number], start.s[number], self.p[number], start.p[number]
            m_p = m_o[:, h] @ (self.v + start.v)[:, h].T / 2
            m_v[:, h] = (p + p0).T @ m_o[:, h] / 2
            m_s = np.zeros_like(s)
            for t in range(len(s)):
                # exp, sum, reciprocal, product.
                e, e0 = np.exp(s[t]), np.exp(s0[t])
                S, S0 = e.sum(), e0.sum()
                m_reciprocal = (m_p[t] * (e + e0) / 2).sum()
                m_e = m_p[t] * (1 / S + 1 / S0) / 2 + (1 / S - 1 / S0) / (S - S0) * m_reciprocal
                m_s[t] = m_e * (e - e0) / (s[t] - s0[t])
            m_q[:, h] = m_s @ (self.k + start.k)[:, h] / 2 / self.root
            m_k[:, h] = m_s.T @ (self.q + start.q)[:, h] / 2 / self.root
        m_n1 = m_q @ weights("query").T + m_k @ weights("key").T + m_v @ weights("value").T
        return (self.x - start.x) * (m_y + self.lift_norm("norm1", self.x, start.x, m_n1))


def attention_lrp(x: _Host, target: int) -> _Host:
    """Relevance of a batch in the net `block`, by AttnLRP with epsilon at the dense layers."""
    return np.stack([Block(sample).relevance(target) for sample in x])
