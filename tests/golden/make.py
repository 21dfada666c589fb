"""Writes the golden fixtures: tiny random checkpoints and what the public reference implementation computes from them.

Run by hand, when a fixture is added or changed:  python tests/golden/make.py [family ...]
Needs torch and transformers (5 or later) on the CPU. The tests need only the files it writes.

A fixture is a folder fixtures/<family>/<name>/ with a checkpoint as users have it and io*.safetensors, which hold
tensors in.NAME and out.NAME, named as the arguments and results of the reference's forward(). Outputs are computed in
double precision from the weights as stored, and kept in float32.
"""

import importlib
import pathlib
import shutil
import sys

HERE = pathlib.Path(__file__).resolve().parent
FAMILIES = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("make"))


def main():
    sys.path.insert(0, str(HERE))
    for family in sys.argv[1:] or FAMILIES:
        target = HERE / "fixtures" / family
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        importlib.import_module(family).make(target)
        for file in target.rglob("*.safetensors"):
            file.chmod(0o644)
        size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        print(f"{family}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
