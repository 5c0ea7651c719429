"""How far training reaches into an encoder: not at all, its last blocks, all of it, or low-rank additions (LoRA)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from odmt.encoders import EncoderError
from odmt.encoders.network import Network
from odmt.spec import Call, parse_call
from odmt.types import Tensor, Tokens

__all__ = ["TrainedEncoder", "blocks_of", "parse_policy"]

POLICIES: Mapping[str, str] = {
    "frozen-live": "odmt.encoders.policies:frozen",
    "top": "odmt.encoders.policies:top",
    "full": "odmt.encoders.policies:full",
    "lora": "odmt.encoders.policies:lora",
}
"""`frozen`, which reads stored features, needs no encoder and is not among them."""

Reach = Callable[[Network], Sequence[nn.Module]]
"""Set which parameters are trained; return the modules that stay as they are, dropout included."""


def parse_policy(text: str) -> Call:
    """Read "full", "frozen-live", "top(2)", "top(blocks=2)" or "lora(r=8)"; nothing is built yet."""
    text = re.sub(r"^\s*top\(\s*(\d+)\s*\)\s*$", r"top(blocks=\1)", text)
    call = parse_call(text.replace("frozen-live", "frozen_live"), known=_SPELT, kind="policy")
    call.check()
    return call


_SPELT = {name.replace("-", "_"): target for name, target in POLICIES.items()}


class TrainedEncoder(nn.Module):
    """Encode contents with gradients, as far as a policy lets them reach.

    What is not trained is in evaluation mode at all times, and so are layers that keep statistics of batches
    (BatchNorm): they would make an item's vector depend on its neighbours. Parameters that no token depends on
    (poolers, heads) are not trained. limit: most tokens of an item that are kept.

    bf16: multiply matrices in bfloat16, in training and in evaluation alike.

    checkpointing: keep of each block in training what goes in, and compute the rest again in the backward pass
    (activation checkpointing, arXiv 1604.06174): for items that are large by themselves, such as long clips.

    Raises `EncoderError` where the policy finds nothing in this network that it could train, and where there are no
    blocks to checkpoint.
    """

    def __init__(
        self,
        network: Network,
        policy: str = "full",
        *,
        limit: int | None = None,
        bf16: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.name = f"{network.name} @ {policy}"
        self.width = network.width
        self.limit, self.bf16 = limit, bf16
        call = parse_policy(policy)
        reach: Reach = call.build()
        self.frozen = tuple(reach(network))
        self.frozen += tuple(m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        self.train()
        if checkpointing:
            _checkpoint_blocks(network)
        self._leave_out_what_is_not_read()
        self.trained = any(parameter.requires_grad for parameter in self.parameters())
        if not self.trained and call.name != "frozen_live":
            raise EncoderError(f"policy {policy!r} finds nothing to train in {network.name}")

    def train(self, mode: bool = True) -> TrainedEncoder:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, inputs: Mapping[str, Tensor]) -> Tokens:
        device = next(iter(inputs.values())).device.type
        with torch.autocast(device, torch.bfloat16) if self.bf16 else nullcontext():
            tokens = self.network(inputs)
        return Tokens(tokens.values[:, : self.limit], tokens.mask[:, : self.limit])

    def _leave_out_what_is_not_read(self) -> None:
        wanted = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if not wanted:
            return
        device = wanted[0].device
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            values = self.network({name: x.to(device) for name, x in self.network.example().items()}).values
            reached = torch.autograd.grad(values.sum(), wanted, allow_unused=True)
        for parameter, gradient in zip(wanted, reached, strict=True):
            parameter.requires_grad_(gradient is not None)


def _checkpoint_blocks(network: Network) -> None:
    blocks = [part for part, is_block in blocks_of(network.model) if is_block]
    if not blocks:
        raise EncoderError(f"{network.name} has no blocks whose activations could be left out; train it without")
    for block in blocks:
        block.forward = MethodType(_recomputed, block)  # a method, so that a copy's block is the copy's


def _recomputed(block: nn.Module, *arguments: Any, **options: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*arguments, **options)
    return checkpoint(forward, *arguments, use_reentrant=False, **options)


def frozen() -> Reach:
    """Train nothing of the encoder; encode at every step all the same."""

    def reach(network: Network) -> Sequence[nn.Module]:
        network.model.requires_grad_(False)
        return [network.model]

    return reach


def full() -> Reach:
    """Train all of it."""
    return lambda _network: []


def top(blocks: int) -> Reach:
    """Train the last `blocks` blocks, by module, and what follows them."""
    if blocks < 1:
        raise EncoderError(f"policy top(blocks={blocks}): train at least one block, or none with frozen-live")

    def reach(network: Network) -> Sequence[nn.Module]:
        parts = _in_order(network)
        places = [place for place, (_, is_block) in enumerate(parts) if is_block]
        if blocks > len(places):
            raise EncoderError(
                f"policy top(blocks={blocks}): {network.name} has {len(places)} blocks; name fewer, or train all of "
                "it with full"
            )
        network.model.requires_grad_(False)
        first = places[-blocks]
        for part, _ in parts[first:]:
            part.requires_grad_(True)
        trained = {module for part, _ in parts[first:] for module in part.modules()}
        # between the parts lie others that know of training, such as dropout of positions
        between = [m for m in network.model.modules() if m not in trained and not any(True for _ in m.children())]
        return [part for part, _ in parts[:first]] + between

    return reach


def lora(r: int = 8, alpha: int = 16) -> Reach:
    """Train additions of rank `r` to every linear layer, scaled by alpha / r (LoRA, arXiv 2106.09685), and nothing else
    of the encoder, whose dropout is off.
    """
    if r < 1:
        raise EncoderError(f"policy lora(r={r}): the rank must be at least 1")

    def reach(network: Network) -> Sequence[nn.Module]:
        from peft import LoraConfig, inject_adapter_in_model

        layers = [name for name, module in network.model.named_modules() if type(module) is nn.Linear]
        if not layers:
            raise EncoderError(f"policy lora: {network.name} has no linear layer; use top or full")
        network.model.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=r, lora_alpha=alpha, target_modules=layers), network.model)
        return [network.model]

    return reach


def _in_order(network: Network) -> list[tuple[nn.Module, bool]]:
    """Give the parts of `blocks_of` that a content passes, in the order in which it does: a model may hold others, such
    as the text tower of a model of clips, and define its first norm last.
    """
    passed: dict[nn.Module, int] = {}
    parts = blocks_of(network.model)

    def note(part: nn.Module, _: object) -> None:
        passed.setdefault(part, len(passed))

    hooks = [part.register_forward_pre_hook(note) for part, _ in parts]
    device = next(network.parameters()).device
    training = network.training
    try:
        with torch.no_grad():
            network.eval()({name: x.to(device) for name, x in network.example().items()})
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return sorted((one for one in parts if one[0] in passed), key=lambda one: passed[one[0]])


def blocks_of(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Give the parts that contents pass, in the order of their definition, each with whether it is a block.

    Blocks are modules of one class, of several layers each, side by side in a list: a transformer's layers, the units
    of a residual stage. Between them stand embeddings, norms, changes of resolution. A network without such lists
    counts what it consists of.
    """
    parts = [part for child in model.children() for part in _parts(child)]
    if any(is_block for _, is_block in parts):
        return parts
    return [(part, _layers(part) > 1) for part, _ in parts]


def _parts(module: nn.Module) -> list[tuple[nn.Module, bool]]:
    if not _layers(module):
        return []
    if type(module) in (nn.ModuleList, nn.Sequential):
        stack, found = _is_stack(module), []
        for child in module.children():
            is_block = stack and _layers(child) > 1 and not any(_is_stack(inner) for inner in child.modules())
            found += [(child, True)] if is_block else _parts(child)
        return found
    if any(_is_stack(inner) for inner in module.modules()):
        return [part for child in module.children() for part in _parts(child)]
    return [(module, False)]


def _is_stack(module: nn.Module) -> bool:
    if type(module) not in (nn.ModuleList, nn.Sequential):
        return False
    composite = [child for child in module.children() if _layers(child) > 1]
    return len(composite) > 1 and len({type(child) for child in composite}) < len(composite)


def _layers(module: nn.Module) -> int:
    return sum(1 for inner in module.modules() if any(True for _ in inner.parameters(recurse=False)))
