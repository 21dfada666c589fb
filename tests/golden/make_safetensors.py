"""Writes tests/golden/fixtures/io/python.safetensors with the `safetensors` package: one tensor of every dtype.

    python tests/golden/make_safetensors.py      (needs: pip install safetensors torch)
"""
import pathlib

import torch
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).parent / "fixtures" / "io"
OUT.mkdir(parents=True, exist_ok=True)
values = torch.tensor([[0.0, 1.0, -2.0], [0.5, 4.0, -0.25]])
tensors = {f"t.{str(d)[6:]}": values.to(d) for d in (
    torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)}
tensors["t.float8_e8m0fnu"] = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 16.0]).to(torch.float8_e8m0fnu)
for d in (torch.int8, torch.int16, torch.int32, torch.int64):
    tensors[f"t.{str(d)[6:]}"] = torch.tensor([1, -2, 3]).to(d)
tensors["t.uint8"] = torch.tensor([0, 7, 255], dtype=torch.uint8)
tensors["t.bool"] = torch.tensor([True, False, True])
tensors["scalar"] = torch.tensor(2.5)
tensors["empty"] = torch.zeros(3, 0, 2)
save_file(tensors, OUT / "python.safetensors", metadata={"format": "pt", "note": "gr\u00fc\u00dfe"})
