"""Shapes in signatures, such as Float[Tensor, "batch dim"].

They are checked at run time where `ODMT_CHECK_SHAPES=1` is set (the tests set it; it needs jaxtyping and beartype);
elsewhere annotations are never evaluated, and these names are nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING or os.environ.get("ODMT_CHECK_SHAPES") == "1":
    from jaxtyping import Bool, Float, Int, UInt8
else:
    Bool = Float = Int = UInt8 = None

__all__ = ["Bool", "Float", "Int", "UInt8"]
