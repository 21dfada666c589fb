"""usage: test_ffi.py CANDIDATE.so HOST_PROGRAM

Loads one kernel, unchanged, by the real apache-tvm-ffi package and by this library, and compares."""
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import tvm_ffi

library, host = sys.argv[1:3]
module = tvm_ffi.load_module(library)
rng = np.random.default_rng(1)


def as_ffi(array):
    return tvm_ffi.from_dlpack(array)


def call(x, weight, epsilon, out):
    module.rms_norm(as_ffi(x), as_ffi(weight), epsilon, as_ffi(out))
    return out


def by_host(x, weight):
    with tempfile.TemporaryDirectory() as folder:
        source, answer = pathlib.Path(folder, "in"), pathlib.Path(folder, "out")
        source.write_bytes(np.array(x.shape, np.int32).tobytes() + x.tobytes() + weight.tobytes())
        done = subprocess.run([host, library, source, answer], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "rms_norm: ValueError: rms_norm: x must have 2 dimensions" in done.stdout, done.stdout
        return np.frombuffer(answer.read_bytes(), np.float32).reshape(x.shape)


for shape in [(1, 1), (3, 33), (17, 128), (2, 4096)]:
    x = rng.standard_normal(shape).astype(np.float32)
    weight = rng.standard_normal(shape[1]).astype(np.float32)
    got = call(x, weight, 1e-6, np.full(shape, np.nan, np.float32))
    wide = x.astype(np.float64)
    expected = wide / np.sqrt((wide * wide).mean(1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    assert np.array_equal(got.view(np.uint32), by_host(x, weight).view(np.uint32)), f"{shape}: Python and C differ"

# Rows of a wider matrix, without a copy.
wide = rng.standard_normal((4, 96)).astype(np.float32)
x, weight = wide[:, 8:40], rng.standard_normal(32).astype(np.float32)
assert np.array_equal(call(x, weight, 1e-6, np.empty((4, 32), np.float32)),
                      call(x.copy(), weight, 1e-6, np.empty((4, 32), np.float32)))

# A refusal is a Python exception of the kind that the kernel names, with its message.
out = np.empty((2, 32), np.float32)
for arguments, kind, text in [
    ((wide[0], weight, 1e-6, out), ValueError, "x must have 2 dimensions"),
    ((wide[:2, :32].astype(np.float64), weight, 1e-6, out), TypeError, "float32 only"),
    ((wide[:2, :32], weight[:5], 1e-6, out), ValueError, "weight must be [hidden_size]"),
]:
    try:
        call(*arguments)
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no {kind.__name__} for: {text}")
try:
    module.rms_norm(as_ffi(wide))
except TypeError as error:
    assert "expected x, weight, epsilon, out" in str(error)
else:
    raise AssertionError("too few arguments went through")

try:
    import torch
except ImportError:
    torch = None
if torch is not None:
    x = torch.randn(5, 64)
    w = torch.randn(64)
    out = torch.empty(5, 64)
    module.rms_norm(x, w, 1e-6, out)
    torch.testing.assert_close(out, x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6) * w)
print("apache-tvm-ffi", tvm_ffi.__version__, "numpy", np.__version__, "torch", torch and torch.__version__)
