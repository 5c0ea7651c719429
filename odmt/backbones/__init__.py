"""Sequence models over item vectors, one file each. Every one is a plain module `(x, mask) -> states`; see
`odmt.types.Backbone`."""

from __future__ import annotations

from odmt.backbones.bert4rec import BERT4Rec
from odmt.backbones.gru4rec import GRU4Rec
from odmt.backbones.hstu import HSTU
from odmt.backbones.lrurec import LRURec
from odmt.backbones.nextitnet import NextItNet
from odmt.backbones.recency import Recency
from odmt.backbones.sasrec import SASRec

__all__ = ["HSTU", "BERT4Rec", "GRU4Rec", "LRURec", "NextItNet", "Recency", "SASRec"]
