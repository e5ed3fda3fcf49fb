"""Import torchvision where its compiled operators cannot load.

The usual torchvision wheel is built against CUDA. Beside a CPU-only torch its library does not load, and the import
fails because the operators it describes do not exist. Data sets and transforms never call them, so each missing
declaration is added and the import tried again; where torchvision imports by itself nothing happens.
"""

import re
import sys
from types import ModuleType

import torch

from .checks import library

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # operators vanish with the Library object that defined them


def import_torchvision() -> ModuleType:
    """Import and return torchvision; afterwards ``from torchvision import ...`` works as usual.
    ImportError if it is not installed, or lacks more than a few declarations."""
    for _ in range(8):
        try:
            module: ModuleType = library("torchvision", "CIFAR")
            return module
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
        fragment = torch.library.Library("torchvision", "FRAGMENT")
        fragment.define(missing[1] + _SCHEMA)
        _libraries.append(fragment)
        for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    raise ImportError("torchvision does not import beside this torch: install a matching pair (see requirements.txt)")
