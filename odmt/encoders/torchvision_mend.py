"""Let torchvision import beside a CPU-only torch.

torchvision's wheel from the general index registers `torchvision::nms` from a compiled library that is linked against
CUDA. Beside a CPU-only torch that library does not load, `import torchvision` ends in "operator torchvision::nms does
not exist", and with it timm and most of transformers' models, text models included. Declaring the missing operators is
enough: nothing here calls them. Pictures are read with PIL and clips with PyAV, never with torchvision.
"""

from __future__ import annotations

import importlib
import sys

import torch

__all__ = ["mend_torchvision"]

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# The declarations live as long as this object does.
_declared: list[torch.library.Library] = []


def mend_torchvision() -> bool:
    """Make `import torchvision` work in this process; call it before timm or a transformers model is imported.

    Returns True where something had to be mended; a good install, and one without torchvision, is left as it is. Any
    other fault of torchvision is raised unchanged.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        return False
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    else:
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        library.define(schema)
    _declared.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    importlib.import_module("torchvision")
    return True
