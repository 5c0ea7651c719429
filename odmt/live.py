"""Content that is encoded while the model trains: raw content into tokens, some items at a time, with exact gradients.

Memory that a step takes for its encoders is that of one chunk of items, not of the batch: every chunk is encoded
without keeping anything but its vectors, and once the loss has given the gradient of these, encoded again and gone
through backwards. That is gradient caching (arXiv 2101.06983), and with random numbers restored before the second time
it changes no bit of what dropout does. `torch.utils.checkpoint` does it, which gradients of several processes bear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from odmt.types import Contents, Int, Raw, Streams, Tensor, Tokens

__all__ = ["EncodedFeatures", "encoded_once", "in_chunks", "tokens_of"]

Content = Mapping[str, Tokens | Raw]


def tokens_of(given: Tokens | Raw, encoder: nn.Module | None, device: torch.device) -> Tokens:
    """Give the tokens of some items: those that are stored, or what `encoder` makes of raw content."""
    if isinstance(given, Tokens):
        return given.to(device)
    assert encoder is not None, "raw content needs its encoder"
    there = given.there.to(device)
    inputs = given.read()
    if not inputs:
        return _nothing(encoder, there)
    found = encoder({name: x.to(device, non_blocking=True) for name, x in inputs.items()})
    if bool(given.there.all()):
        return found
    values = found.values.new_zeros(len(there), *found.values.shape[1:])
    mask = found.mask.new_zeros(len(there), found.mask.shape[1])
    return Tokens(values.index_put((there,), found.values), mask.index_put((there,), found.mask))


def _nothing(encoder: nn.Module, there: Tensor) -> Tokens:
    """Give no tokens, yet let every parameter have a gradient, which other processes may wait for."""
    width: int = encoder.width  # pyright: ignore[reportAssignmentType]
    zeros = torch.zeros(len(there), 1, width, device=there.device)
    trained = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    if torch.is_grad_enabled() and trained:
        zeros = zeros + 0.0 * torch.stack([parameter.sum() for parameter in trained]).sum()
    return Tokens(zeros, torch.zeros(len(there), 1, dtype=torch.bool, device=there.device))


def in_chunks(
    encode: Callable[[Int[Tensor, " items"], Content], Streams],
    items: Int[Tensor, " items"],
    content: Content,
    size: int,
) -> Streams:
    """Encode `size` items at a time, and keep of each chunk what `encode` gives and nothing else."""
    made = []
    with _without_shared_copies(items.device):
        for part in _slices(len(items), size):
            some = {name: _part(given, part) for name, given in content.items()}
            # bound now: what is encoded again must be this chunk
            made.append(checkpoint(encode, items[part], some, use_reentrant=False, determinism_check="none"))
    return {name: torch.cat([streams[name] for streams in made]) for name in made[0]}


def encoded_once(given: Tokens | Raw, encoder: nn.Module | None, device: torch.device, size: int) -> Tokens | Raw:
    """Encode raw content at once, `size` items at a time, where no gradient will ask for it a second time; its tokens
    are then held as those of stored features are.
    """
    if isinstance(given, Tokens) or encoder is None or any(p.requires_grad for p in encoder.parameters()):
        return given
    with torch.no_grad():
        return _together([tokens_of(given.part(part), encoder, device) for part in _slices(len(given.there), size)])


def _without_shared_copies(device: torch.device) -> AbstractContextManager[object]:
    """Have autocast, where it is on, copy weights for every chunk: gradients of all chunks would be added up in the
    precision of one shared copy.
    """
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, dtype=torch.get_autocast_dtype(kind), cache_enabled=False)


def _part(given: Tokens | Raw, part: slice) -> Tokens | Raw:
    if isinstance(given, Raw):
        return given.part(part)
    values, mask = given.values[part], given.mask[part]
    longest = max(1, int(mask.any(0).nonzero().max()) + 1) if mask.any() else 1  # of these items, not of the batch
    return Tokens(values[:, :longest], mask[:, :longest])


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


class EncodedFeatures:
    """Show raw content as the tokens that encoders make of it now, for what starts from a catalogue's content."""

    CHUNK = 32

    def __init__(self, features: Contents, encoders: nn.ModuleDict) -> None:
        self.features, self.encoders = features, encoders

    @property
    def num_items(self) -> int:
        return self.features.num_items

    @property
    def widths(self) -> Mapping[str, int]:
        return self.features.widths

    def count_tokens(self, modality: str, items: np.ndarray | Sequence[int]) -> np.ndarray:
        """Say how many tokens each item has, as `odmt.types.Features` does."""
        return self.features.count_tokens(modality, items)

    @torch.no_grad()
    def gather(self, modality: str, items: np.ndarray | Sequence[int]) -> Tokens:
        """Encode the content of `items`, without dropout."""
        encoder = dict(self.encoders.items()).get(modality)
        wanted = np.asarray(items)
        if encoder is None:
            return tokens_of(self.features.gather(modality, wanted), None, torch.device("cpu"))
        training = encoder.training
        encoder.eval()
        device = next(encoder.parameters()).device
        try:
            found = [
                tokens_of(self.features.gather(modality, wanted[part]), encoder, device)
                for part in tqdm(
                    list(_slices(len(wanted), self.CHUNK)),
                    desc=f"{modality}, to start from",
                    unit="chunk",
                    leave=False,
                    disable=torch.distributed.is_initialized() and torch.distributed.get_rank() > 0,
                )
            ]
        finally:
            encoder.train(training)
        return _together(found).to("cpu")


def _together(found: Sequence[Tokens]) -> Tokens:
    longest = max(tokens.mask.shape[1] for tokens in found)
    padded = [_padded(tokens, longest) for tokens in found]
    return Tokens(torch.cat([one.values for one in padded]), torch.cat([one.mask for one in padded]))


def _padded(tokens: Tokens, length: int) -> Tokens:
    missing = length - tokens.mask.shape[1]
    values = nn.functional.pad(tokens.values, (0, 0, 0, missing))
    return Tokens(values, nn.functional.pad(tokens.mask, (0, missing)))
