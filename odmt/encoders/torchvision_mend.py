"""Let torchvision import beside a CPU-only torch.

torchvision's wheel from the general index registers `torchvision::nms` from a compiled library that is linked against
CUDA. Beside a CPU-only torch that library does not load, `import torchvision` ends in "operator torchvision::nms does
not exist", and with it timm, most of transformers' models (text models included), and the `accelerate` command itself.
Declaring the missing operators is enough: nothing here calls them. Pictures are read with PIL and clips with PyAV.

`mend_torchvision()` mends the process that calls it. `python -m odmt.encoders.torchvision_mend` mends the environment:
it puts this file, which needs only the standard library, where every Python of the environment loads it at start.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

__all__ = ["mend_environment", "mend_torchvision"]

FAULT = "torchvision::nms does not exist"
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
INSTALLED_AS = "_odmt_torchvision_mend"

_declared: list[object] = []  # a declaration lives as long as the library object that made it


class _Loader(importlib.abc.Loader):
    """Execute torchvision; where that ends in the known fault, declare the operators and execute it again."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # sources and resources are the real loader's business

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self.loader.exec_module(module)
        except RuntimeError as error:
            if FAULT not in str(error):
                raise
            _declare()
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]
            self.loader.exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def mend_torchvision() -> None:
    """Make `import torchvision` work in this process; call it before timm or a transformers model is imported.

    It imports nothing, changes nothing on a good install or one without torchvision, and lets every other fault of
    torchvision through.
    """
    if not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def mend_environment(folder: Path) -> bool:
    """Install the mend into `folder` (site-packages) if torchvision needs it there; return whether it did."""
    probe = "import torchvision"
    found = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    if found.returncode == 0 or FAULT not in found.stderr:
        return False
    (folder / f"{INSTALLED_AS}.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / f"{INSTALLED_AS}.pth").write_text(f"import {INSTALLED_AS}; {INSTALLED_AS}.mend_torchvision()\n")
    return True


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    _declared.append(library)


if __name__ == "__main__":
    if mend_environment(Path(sysconfig.get_paths()["purelib"])):
        print("mended torchvision, which does not import beside this CPU-only torch")
