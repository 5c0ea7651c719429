"""Read the files of items, several at a time, each by itself: a broken one gives a reason and stops nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from odmt.data.pictures import BrokenMediaError
from odmt.encoders import Content, Unreadable

__all__ = ["read_each"]

Read = TypeVar("Read")


def read_each(
    contents: Sequence[Content], read: Callable[..., Read], *further: Sequence[object], threads: int
) -> list[Read | Unreadable]:
    """Call `read` on every file, with its entry of each of `further`, in order and in so many threads: decoding frees
    the interpreter.
    """

    def one(content: Content, *of_it: object) -> Read | Unreadable:
        try:
            return read(Path(content), *of_it)
        except BrokenMediaError as error:
            return Unreadable(str(error))

    with warnings.catch_warnings():
        # PIL warns of odd metadata and of large pictures, which `read_picture` judges itself.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        if threads <= 1 or len(contents) <= 1:
            return list(map(one, contents, *further))
        with ThreadPoolExecutor(max_workers=threads) as pool:
            return list(pool.map(one, contents, *further))
