"""The table of CAM methods, with what each must give on the net of `mapnets`."""

from __future__ import annotations

from typing import Any

import literal_cam
import mapnets
import numpy as np

import xai_core as xai

ONE_PASS = {
    xai.GradCAM: literal_cam.grad_cam,
    xai.GradCAMPlusPlus: literal_cam.grad_cam_plus_plus,
    xai.XGradCAM: literal_cam.x_grad_cam,
    xai.HiResCAM: literal_cam.hi_res_cam,
    xai.LayerCAM: literal_cam.layer_cam,
    xai.NormGrad: literal_cam.norm_grad,
    xai.EigenCAM: literal_cam.eigen_cam,
    xai.EigenGradCAM: literal_cam.eigen_grad_cam,
}
CAMS = [*ONE_PASS, xai.ScoreCAM, xai.AblationCAM, xai.LIFTCAM]


def expected(kind: type, x: np.ndarray, target: int, relu: bool = True) -> np.ndarray:
    """Maps (batch, height, width) of the net of `mapnets`."""
    out = []
    for sample, a in zip(x.astype("float64"), mapnets.at_conv(x), strict=True):
        if kind in ONE_PASS:
            found = ONE_PASS[kind](a, literal_cam.gradient(mapnets.behind_conv, a, target))
        elif kind is xai.ScoreCAM:
            found = literal_cam.score_cam(a, sample, lambda s: float(mapnets.scores(s[None])[0, target]))
        elif kind is xai.LIFTCAM:
            found = literal_cam.lift_cam(a, mapnets.lifted(a, target))
        else:
            found = literal_cam.ablation_cam(a, lambda v: float(mapnets.behind_conv(v[None])[0, target]))
        out.append(np.maximum(found, 0) if relu else found)
    return np.stack(out)


def as_maps(values: Any, channel: int) -> np.ndarray:
    """(batch, height, width) of values with one channel."""
    host = xai.Explanation(values, values, None, None, None).numpy().values
    assert host.shape[channel] == 1, host.shape
    return host.squeeze(channel)
