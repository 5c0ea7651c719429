"""odmt: recommend micro-videos and products from what they are as well as from who clicked what.

Importing this package costs torch and numpy. Datasets, encoders and training live in `odmt.data.format`,
`odmt.encoders` and `odmt.training`, which bring their own libraries. `ODMT_CHECK_SHAPES=1` checks every tensor's shape
at run time.
"""

from __future__ import annotations

import os

if os.environ.get("ODMT_CHECK_SHAPES") == "1":
    import jaxtyping

    jaxtyping.install_import_hook("odmt", "beartype.beartype")

from odmt.backbones import SASRec
from odmt.data.features import ItemFeatures
from odmt.data.loading import make_batch
from odmt.data.splits import LeaveTwoOut
from odmt.distill import DistillationGraph, ensemble
from odmt.evaluate import metrics, ranks
from odmt.fusion import IDAwareTransformer, Independent, SumFusion
from odmt.model import ODMT
from odmt.types import Backbone, Batch, Features, Fusion, Questions, Streams, Tokens

__all__ = [
    "ODMT",
    "Backbone",
    "Batch",
    "DistillationGraph",
    "Features",
    "Fusion",
    "IDAwareTransformer",
    "Independent",
    "ItemFeatures",
    "LeaveTwoOut",
    "Questions",
    "SASRec",
    "Streams",
    "SumFusion",
    "Tokens",
    "ensemble",
    "make_batch",
    "metrics",
    "ranks",
]
