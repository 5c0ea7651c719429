"""Sequence models over item vectors, one file each. Every one is a plain module `(x, mask) -> states`; see
`odmt.types.Backbone`."""

from __future__ import annotations

from odmt.backbones.sasrec import SASRec

__all__ = ["BACKBONES", "SASRec"]

BACKBONES = {"sasrec": "odmt.backbones.sasrec:SASRec"}
"""Short names for component strings; anything else is named by import path, as in "my_pkg.nets:Mamba(state=16)"."""
