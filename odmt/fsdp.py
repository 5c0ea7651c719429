"""Training with parameters, gradients and the optimizer's state split over processes by torch: FSDP2 and DTensor.

accelerate leaves it out on a CPU, without a word, and splits models module by module, of which all processes must then
call the same ones equally often. Ours do not: items lack content, and raw content is encoded in chunks. So torch's
`fully_shard` is called here, for the model as a whole, on any device: parameters are gathered when a step begins, and
gradients added up and split when its backward pass ends. What it spares is what lies between: the optimizer's state, of
twice the parameters' size, and a copy of them.

Id tables are as large as the catalogue, and are not gathered: each process has some of the rows, with their gradients
and moments. It looks up which of all items that the processes encode are among them, and every process is given what it
asked for, which the one that has it adds to the zeros of the others. (torch's embedding of a DTensor does that, too,
but makes gradients of the whole table on the way.) In evaluation they are whole, in the memory of the processor.

As under DistributedDataParallel, a loss is averaged over processes. Parameters that the model tells that to leave alone
(lazy id tables) are left alone here, too; those without a dimension, which cannot be split, every process keeps whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from odmt.items import id_tables
from odmt.shards import IN_MEMORY, own_share
from odmt.sharing import everyones
from odmt.types import Tensor

__all__ = ["FullyShards", "joined_shares"]

WEIGHTS, STATE = "weights-{}.safetensors", "optimizer-{}.pt"
"""What each process writes: its share of the parameters, and of the optimizer's state."""


class FullyShards(Accelerator):
    """Prepare a model and its optimizer as Accelerator does, but split them; save and load what each process holds."""

    rows: Sequence[nn.Parameter] = ()
    averaged: Sequence[nn.Parameter] = ()

    @cached_property
    def mesh(self) -> DeviceMesh:
        return init_device_mesh(self.device.type, (self.num_processes,))

    def split_tables(self, model: nn.Module) -> None:
        """Split the id tables of a model, each process having made them alike, before it goes to the device, where they
        may be too large to be whole.
        """
        if self.num_processes > 1:
            self.rows = [_split_by_rows(table, self.mesh, self.device) for table in id_tables(model).values()]

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Split `model`, which is returned as it is, and have the optimizer train what this process holds."""
        if self.num_processes == 1:
            return super().prepare(model, optimizer)
        self.model = self.prepare_model(model, evaluation_mode=True)  # in the precision asked for
        left = set(getattr(model, "_ddp_params_and_buffers_to_ignore", ()))
        before = dict(self.model.named_parameters())
        for name, parameter in before.items():
            if name not in left and not isinstance(parameter, DTensor):
                dist.broadcast(parameter.detach(), 0)  # machines need not round alike what models start from
        whole = [p for name, p in before.items() if name in left or not p.dim()]
        self.averaged = [p for name, p in before.items() if name not in left and not p.dim() and p.requires_grad]
        fully_shard(self.model, mesh=self.mesh, ignored_params={*whole, *self.rows})
        now = {before[name]: parameter for name, parameter in self.model.named_parameters()}
        for group in optimizer.param_groups:
            group["params"] = [now[parameter] for parameter in group["params"]]
        self.named = {parameter: name for name, parameter in self.model.named_parameters()}
        return self.model, self.prepare_optimizer(optimizer)

    def backward(self, loss: Tensor, **more: Any) -> None:
        """Compute the gradients, averaged over processes."""
        super().backward(loss, **more)
        for parameter in self.averaged:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
        for parameter in (*self.averaged, *self.rows):
            if parameter.grad is not None:
                parameter.grad /= self.num_processes

    def save_state(self, output_dir: str, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write what this process holds; the first writes what all hold alike, too."""
        if self.num_processes == 1:
            return str(super().save_state(output_dir))
        first = self.process_index == 0
        kept = {name: one for name, one in self.model.state_dict().items() if first or isinstance(one, DTensor)}
        # copied, because safetensors takes no two of one memory, as tied parameters are
        tensors = {name: own_share(one).detach().to("cpu", copy=True).contiguous() for name, one in kept.items()}
        save_file(tensors, Path(output_dir) / WEIGHTS.format(self.process_index))
        optimizer = self._optimizer()
        groups = [{name: value for name, value in one.items() if name != "params"} for one in optimizer.param_groups]
        states = {self.named[p]: _shares(state) for p, state in optimizer.state.items()}
        torch.save({"groups": groups, "states": states}, Path(output_dir) / STATE.format(self.process_index))
        return output_dir

    def load_state(self, input_dir: str, **_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Bring model and optimizer to where they were when this process, of as many, wrote what it held."""
        if self.num_processes == 1:
            super().load_state(input_dir)
            return
        held = load_file(Path(input_dir) / WEIGHTS.format(self.process_index))
        with safe_open(Path(input_dir) / WEIGHTS.format(0), framework="pt") as first, torch.no_grad():
            for name, tensor in self.model.state_dict().items():
                own_share(tensor).copy_(held[name] if name in held else first.get_tensor(name))
        told = torch.load(Path(input_dir) / STATE.format(self.process_index), map_location="cpu", weights_only=True)
        optimizer, states = self._optimizer(), told["states"]
        for group, settings in zip(optimizer.param_groups, told["groups"], strict=True):
            group.update(settings)  # the learning rate, too, which the schedule only sets after a step
        for parameter, name in self.named.items():
            if name in states:
                state = {what: value.to(self.device) for what, value in states[name].items()}
                optimizer.state[parameter] = {what: _like(parameter, value) for what, value in state.items()}

    def _optimizer(self) -> torch.optim.Optimizer:
        return self._optimizers[0].optimizer


def joined_shares(checkpoint: Path) -> dict[str, Tensor] | None:
    """Put together what each process wrote of a model, in the memory of the processor; None where none did."""
    found = []
    while (path := checkpoint / WEIGHTS.format(len(found))).is_file():
        found.append(load_file(path))
    if not found:
        return None
    names = found[0]
    split = found[-1]  # of what is not split only the first process writes
    return {name: torch.cat([one[name] for one in found]) if name in split else names[name] for name in names}


def _split_by_rows(table: nn.Embedding, mesh: DeviceMesh, device: torch.device) -> nn.Parameter:
    """Leave this process its rows of a table, on `device`, and have it look up the others' by asking for them."""
    whole = table.weight.detach()
    size = -(-len(whole) // mesh.size())  # as torch splits rows
    rows = whole[mesh.get_rank() * size :][:size].to(device, copy=True)
    table.weight = nn.Parameter(_share_of(whole, rows, mesh), table.weight.requires_grad)
    setattr(table, IN_MEMORY, True)
    table.forward = partial(_found, table)  # pyright: ignore[reportAttributeAccessIssue]
    return table.weight


def _found(table: nn.Embedding, items: Tensor) -> Tensor:
    """Look up rows of `items`, other ones on each process; where the table is split, all must ask at once."""
    weight: Tensor = table.weight
    if not isinstance(weight, DTensor):
        return nn.functional.embedding(items.to(weight.device), weight).to(items.device)
    world, rank = dist.get_world_size(), dist.get_rank()
    longest = torch.tensor(len(items), device=items.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)  # what is exchanged is of one shape everywhere
    asked = nn.functional.pad(items, (0, int(longest) - len(items)))
    places = everyones(asked).flatten() - rank * -(-weight.shape[0] // world)
    found: Tensor = _Rows.apply(weight.to_local(), places)  # pyright: ignore[reportAssignmentType]
    return found[: len(items)]


class _Rows(torch.autograd.Function):
    """Give each process what it asked for, of what all have.

    places: [processes * asked], which of this process's rows; those of others lie below 0 or behind the last.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.number, ctx.here = len(rows), ((places >= 0) & (places < len(rows))).nonzero()[:, 0]
        ctx.places = places[ctx.here]
        found = rows.new_zeros(len(places), rows.shape[1])
        found[ctx.here] = rows[ctx.places]
        own = found.new_empty(len(places) // dist.get_world_size(), rows.shape[1])
        dist.reduce_scatter(own, list(found.chunk(dist.get_world_size())))
        return own

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        of_rows = gradient.new_zeros(ctx.number, gradient.shape[1])
        # in the same order each time, on a GPU, too, which adding to rows is not
        given = everyones(gradient.contiguous()).flatten(0, 1)[ctx.here]
        return of_rows.index_put_((ctx.places,), given, accumulate=True), None


def _shares(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {what: own_share(value).cpu() for what, value in state.items()}


def _like(parameter: Tensor, share: Tensor) -> Tensor:
    """Take a share as one of what `parameter` is a share of, where it is one."""
    if not isinstance(parameter, DTensor) or not share.dim():
        return share
    return _share_of(parameter, share, parameter.device_mesh)


def _share_of(whole: Tensor, share: Tensor, mesh: DeviceMesh) -> DTensor:
    return DTensor.from_local(share, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride())
