"""Sequence models over item vectors, one file each. Every one is a plain module `(x, mask) -> states`; see
`odmt.types.Backbone`."""

from __future__ import annotations

from odmt.backbones.bert4rec import BERT4Rec
from odmt.backbones.gru4rec import GRU4Rec
from odmt.backbones.hstu import HSTU
from odmt.backbones.lrurec import LRURec
from odmt.backbones.nextitnet import NextItNet
from odmt.backbones.sasrec import SASRec

__all__ = ["BACKBONES", "HSTU", "BERT4Rec", "GRU4Rec", "LRURec", "NextItNet", "SASRec"]

BACKBONES = {
    "sasrec": "odmt.backbones.sasrec:SASRec",
    "gru4rec": "odmt.backbones.gru4rec:GRU4Rec",
    "nextitnet": "odmt.backbones.nextitnet:NextItNet",
    "bert4rec": "odmt.backbones.bert4rec:BERT4Rec",
    "hstu": "odmt.backbones.hstu:HSTU",
    "lrurec": "odmt.backbones.lrurec:LRURec",
    "huggingface": "odmt.backbones.huggingface:huggingface",
}
"""Short names for component strings; anything else is named by import path, as in "my_pkg.nets:Mamba(state=16)"."""
