"""Writes golden.safetensors beside every golden.py of kernels/ and blocks/.

golden.py defines `cases(rng)`, which returns a list of dicts from argument name to value: inputs and attributes, and the
outputs that an independent formula expects, all in double. An in-out tensor's content before the call has the argument's
name, its content after the call "<argument>.after". Absent optional tensors are left out or None.

Each item becomes a tensor "<case>.<name>": numbers float64, integers int64, booleans bool, attributes scalars (an enum's
name becomes its index). The generator is seeded by the task's name, so the files do not change from run to run.

    python tests/golden/make_tasks.py [TASK...]
"""

import importlib.util
import json
import pathlib
import sys
import zlib

import numpy as np
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location("golden_" + path.parent.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def to_array(task, name, value):
    if isinstance(value, str):
        value = task["attributes"][name]["enum"].index(value)
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == bool:
        return array.astype(np.int64) if name in task.get("attributes", {}) else np.ascontiguousarray(array)
    kind = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64
    return np.array(array, dtype=kind, order="C")


def make(path):
    folder = path.parent
    task = json.loads((folder / "task.json").read_text())
    known = {name for group in ("inputs", "weights", "attributes", "outputs") for name in task.get(group, {})}
    inout = {name for name, t in task["inputs"].items() if t.get("inout")}
    written = set(task.get("outputs", {})) | {name + ".after" for name in inout}
    cases = load(path).cases(np.random.default_rng(zlib.crc32(folder.name.encode())))
    tensors = {}
    for i, case in enumerate(cases):
        given = {name: value for name, value in case.items() if value is not None}
        unknown = set(given) - known - written
        missing = written - set(given)
        if unknown or missing & {name + ".after" for name in inout if name in given}:
            raise SystemExit(f"{path}: case {i}: unknown {sorted(unknown)}, missing {sorted(missing)}")
        if not set(given) & written:
            raise SystemExit(f"{path}: case {i} expects nothing")
        for name, value in given.items():
            tensors[f"{i}.{name}"] = to_array(task, name, value)
    if not tensors:
        raise SystemExit(f"{path}: no cases")
    save_file(tensors, folder / "golden.safetensors")
    return len(cases)


def main():
    wanted = set(sys.argv[1:])
    paths = sorted([*ROOT.glob("kernels/*/*/golden.py"), *ROOT.glob("blocks/*/*/golden.py")])
    unknown = wanted - {path.parent.name for path in paths}
    if unknown:
        raise SystemExit(f"no golden.py for {sorted(unknown)}")
    for path in paths:
        if not wanted or path.parent.name in wanted:
            print(f"{path.parent.name}: {make(path)} cases")


if __name__ == "__main__":
    main()
