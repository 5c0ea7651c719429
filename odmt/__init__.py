"""odmt: recommend micro-videos and products from what they are as well as from who clicked what.

Importing this package costs nothing: what it offers is imported when it is used, and brings torch and numpy. Datasets,
encoders and training live in `odmt.data.format`, `odmt.encoders` and `odmt.training`, which bring their own libraries.
`ODMT_CHECK_SHAPES=1` checks every tensor's shape at run time.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if os.environ.get("ODMT_CHECK_SHAPES") == "1":
    import jaxtyping

    jaxtyping.install_import_hook("odmt", "beartype.beartype")

if TYPE_CHECKING:
    from odmt.backbones import HSTU, BERT4Rec, GRU4Rec, LRURec, NextItNet, Recency, SASRec
    from odmt.data.features import ItemFeatures
    from odmt.data.loading import make_batch
    from odmt.data.splits import LeaveTwoOut
    from odmt.distill import DistillationGraph, ensemble
    from odmt.embedding import ItemEmbedding, TiedHead, rows_of
    from odmt.evaluate import metrics, ranks
    from odmt.fusion import IDAwareTransformer, Independent
    from odmt.items import ItemEncoder
    from odmt.model import ODMT
    from odmt.recommend import Recommender
    from odmt.types import Backbone, Batch, Features, Fusion, Questions, Streams, Tokens

__all__ = [
    "HSTU",
    "ODMT",
    "BERT4Rec",
    "Backbone",
    "Batch",
    "DistillationGraph",
    "Features",
    "Fusion",
    "GRU4Rec",
    "IDAwareTransformer",
    "Independent",
    "ItemEmbedding",
    "ItemEncoder",
    "ItemFeatures",
    "LRURec",
    "LeaveTwoOut",
    "NextItNet",
    "Questions",
    "Recency",
    "Recommender",
    "SASRec",
    "Streams",
    "TiedHead",
    "Tokens",
    "ensemble",
    "make_batch",
    "metrics",
    "ranks",
    "rows_of",
]

_MODULES = {
    "BERT4Rec": "odmt.backbones",
    "GRU4Rec": "odmt.backbones",
    "HSTU": "odmt.backbones",
    "LRURec": "odmt.backbones",
    "NextItNet": "odmt.backbones",
    "Recency": "odmt.backbones",
    "SASRec": "odmt.backbones",
    "ItemFeatures": "odmt.data.features",
    "make_batch": "odmt.data.loading",
    "LeaveTwoOut": "odmt.data.splits",
    "DistillationGraph": "odmt.distill",
    "ensemble": "odmt.distill",
    "metrics": "odmt.evaluate",
    "ranks": "odmt.evaluate",
    "IDAwareTransformer": "odmt.fusion",
    "Independent": "odmt.fusion",
    "ItemEmbedding": "odmt.embedding",
    "TiedHead": "odmt.embedding",
    "rows_of": "odmt.embedding",
    "ItemEncoder": "odmt.items",
    "ODMT": "odmt.model",
    "Recommender": "odmt.recommend",
    "Backbone": "odmt.types",
    "Batch": "odmt.types",
    "Features": "odmt.types",
    "Fusion": "odmt.types",
    "Questions": "odmt.types",
    "Streams": "odmt.types",
    "Tokens": "odmt.types",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
