"""The tokens of contents that an encoder can read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from odmt.encoders import Content, Encoder, Unreadable


def arrays(encoder: Encoder, contents: Sequence[Content]) -> list[np.ndarray]:
    encoded = encoder.encode(contents)
    assert not any(isinstance(one, Unreadable) for one in encoded)
    return [one for one in encoded if isinstance(one, np.ndarray)]
