"""`xai-core layers`: what a model consists of, from the command line."""

from __future__ import annotations

import numpy as np
from frameworks import need

from xai_core.cli import main

need("torch")

MODEL = """
import torch

model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 2)).eval()
"""


def test_layers_and_operations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small_net.py").write_text(MODEL)
    np.save("x.npy", np.zeros((1, 3, 6, 6), dtype="float32"))
    assert main(["layers", "small_net:model", "x.npy"]) == 0
    printed = capsys.readouterr().out
    assert "Conv2d" in printed
    assert "(1, 4, 4, 4)" in printed
    assert main(["layers", "small_net:model", "x.npy", "--ops"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:3] == ["layer", "kind", "operation"]
    assert [row[1] for row in rows[1:]] == ["linear", "activation", "structure", "linear"]
    assert rows[2][:3] == ["1", "activation", "relu"]
