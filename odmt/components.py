"""Short names of the components that a call may name, and where they are; anything else is named by import path, as in
"my_pkg.nets:Mamba(state=16)". Nothing is imported before it is named.
"""

from __future__ import annotations

__all__ = [
    "AUGMENTATIONS",
    "BACKBONES",
    "CONTENT",
    "CONTEXT",
    "DISTILL_LOSSES",
    "ENSEMBLES",
    "FIXED",
    "FUSIONS",
    "JOINS",
    "LOSSES",
    "RESERVED",
    "SIMILARITIES",
]

FUSIONS = {
    "imt": "odmt.fusion:IDAwareTransformer",
    "independent": "odmt.fusion:Independent",
    "joint": "odmt.fusion:Joint",
}

JOINS = {
    "sum": "odmt.joins:Sum",
    "concat": "odmt.joins:Concatenate",
    "gated": "odmt.joins:Gate",
    "attention": "odmt.joins:AttentionJoin",
}

BACKBONES = {
    "sasrec": "odmt.backbones.sasrec:SASRec",
    "gru4rec": "odmt.backbones.gru4rec:GRU4Rec",
    "nextitnet": "odmt.backbones.nextitnet:NextItNet",
    "bert4rec": "odmt.backbones.bert4rec:BERT4Rec",
    "hstu": "odmt.backbones.hstu:HSTU",
    "lrurec": "odmt.backbones.lrurec:LRURec",
    "recency": "odmt.backbones.recency:Recency",
    "huggingface": "odmt.backbones.huggingface:huggingface",
}

LOSSES = {
    "in_batch": "odmt.ranking:InBatch",
    "full": "odmt.ranking:FullSoftmax",
    "sampled": "odmt.ranking:SampledSoftmax",
    "gbce": "odmt.ranking:GBCE",
}

SIMILARITIES = {"product": "odmt.similarity:Product", "cosine": "odmt.similarity:Cosine"}

DISTILL_LOSSES = {
    "ce": "odmt.distill_losses:CrossEntropy",
    "kl": "odmt.distill_losses:KL",
    "dkd": "odmt.distill_losses:Decoupled",
    "ranking": "odmt.distill_losses:TopRanking",
}

ENSEMBLES = {
    "mean": "odmt.ensembles:Mean",
    "weighted": "odmt.ensembles:Weighted",
    "fitted": "odmt.ensembles:Fitted",
}

AUGMENTATIONS = {"crop": "odmt.data.augmenting:Crop"}

CONTENT = "content"
"""Stands for every stream but the id, where streams are named, and is what fusion 'joint' calls them all as one."""
RESERVED = (CONTENT, "ensemble", "item", "user", "users", "file", "most-popular")
"""What no features may be called: names of what is made of several streams, and of what lies beside them in files."""
CONTEXT = ("dim", "dropout", "length", "widths", "streams", "num_items")
"""What a component's constructor may ask for beside its own arguments."""
FIXED = ("dim", "length", "widths", "streams", "num_items")
"""Of these, what must be the same in all components, so that no call may set it."""
