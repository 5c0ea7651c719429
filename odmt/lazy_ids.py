"""Id tables that are trained at the cost of a batch: AdamW whose steps reach a row when that is next read.

AdamW (arXiv 1711.05101) moves every row at every step: also without a gradient weights decay, and moments push on. Here
a row stands still until a batch reads it, and then makes up for what it missed. With m and v its moments after step s,
the last that it took, eta_j the learning rates and lambda the weight decay, its weights after step t are

    p_t = p_s prod_{j=s+1..t} (1 - eta_j lambda)
          - m / (sqrt(v) + eps_s) sum_{j=s+1..t} eta_j c_j rho^(j-s) prod_{i=j+1..t} (1 - eta_i lambda)
    rho = beta1 / sqrt(beta2),  c_j = sqrt(1 - beta2^j) / (1 - beta1^j),  eps_s = eps sqrt(1 - beta2^s),
    m_t = beta1^(t-s) m,  v_t = beta2^(t-s) v,

which are AdamW's own but for eps: with it, AdamW's is eps sqrt(1 - beta2^j), beside a root that shrinks by
sqrt(beta2) a step. A row's gradient is then applied as AdamW does, eps included. The product and the sum depend on s
and t alone, and are kept for every s. Nothing is as large as the catalogue in a step but the table and its moments,
which lie still.

Every process has the whole table, and all move the same rows by the same gradient, so that tables stay alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from odmt.config import TrainConfig
from odmt.items import id_tables
from odmt.types import Int, Tensor

__all__ = ["LazyTables", "lazy_tables"]

BETAS, EPS = (0.9, 0.999), 1e-8
"""As torch.optim.AdamW has them."""
NEGLIGIBLE = 1e-17
SETTLED_AT_ONCE = 1 << 16
"""Rows that make up for their steps together when all do."""


def lazy_tables(model: nn.Module, settings: TrainConfig, *, steps: int) -> LazyTables:
    """Take the id tables of a model, where the settings ask for it, out of the hands of what averages gradients over
    processes, and into these; none otherwise.
    """
    tables = id_tables(model) if settings.id_updates == "lazy" else {}
    names = [f"{name}.weight" for name in tables]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)
    for table in tables.values():
        broadcast(table.weight.detach())  # as it would; machines need not round alike what tables start from
    return LazyTables(tables, lr=settings.lr, weight_decay=settings.weight_decay, steps=steps)


class LazyTables:
    """Train embedding tables so: in a step `collect`, then `step`; before anything else reads the tables, `settle`.

    tables: by name, on the device where they stay; their gradients become sparse, and other optimizers must leave them
    out. steps: as many as will be taken. Raises ValueError where decay would turn weights around.
    """

    def __init__(
        self,
        tables: Mapping[str, nn.Embedding],
        *,
        lr: float,
        weight_decay: float,
        steps: int,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
    ) -> None:
        if tables and not lr * weight_decay < 1:
            raise ValueError(f"lr={lr} times weight_decay={weight_decay} must be below 1, or weights change their sign")
        self.weight_decay, self.betas, self.eps = weight_decay, betas, eps
        self.tables = {name: _Table(table) for name, table in tables.items()}
        device = next((table.weight.device for table in self.tables.values()), None)
        self.taken = 0
        self.rho = betas[0] / math.sqrt(betas[1])
        self.window = math.ceil(math.log(NEGLIGIBLE) / math.log(self.rho))
        """Steps after which a gradient pushes no more."""
        self.log_kept = torch.zeros(steps + 1, dtype=torch.float64, device=device)
        """Of each step t, the logarithm of the product of 1 - eta lambda over all steps until then."""
        self.pushed = torch.zeros(steps + 1, dtype=torch.float64, device=device)
        """Of each step s, the sum above, until now or until s + window."""
        self.fading = self.rho ** torch.arange(self.window, 0, -1, dtype=torch.float64, device=device)
        for table in self.tables.values():
            table.read_by(self._catch_up)

    def collect(self, accelerator: Accelerator, items: Int[Tensor, " items"], *, shared: bool = False) -> list[Tensor]:
        """Take the gradients of a batch's distinct items off the tables, the mean over processes: per table something
        whose `grad` is [rows, width] and can be clipped with the others'.

        shared: whether these are the items of all processes, whose rows then need not be asked for, or of this one.
        """
        return [table.collect(accelerator, items, shared=shared) for table in self.tables.values()]

    def release(self) -> None:
        """Let go of the tables, which are what they were to others, and drop the moments; `settle` first."""
        for table in self.tables.values():
            table.release()
        self.tables = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Apply what was collected."""
        if not self.tables:
            return
        t = self.taken + 1
        (beta1, beta2), log_kept = self.betas, math.log1p(-lr * self.weight_decay)
        correction = math.sqrt(1 - beta2**t)
        for table in self.tables.values():
            rows, gradient = table.rows, table.gradient
            self._catch_up(table, rows)  # other processes read them
            m = table.m[rows].lerp_(gradient, 1 - beta1)
            v = table.v[rows].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            weight = table.weight[rows].mul_(1 - lr * self.weight_decay)
            weight.addcdiv_(m, v.sqrt().div_(correction).add_(self.eps), value=-lr / (1 - beta1**t))
            table.put(rows, weight, m, v, t)
        self.log_kept[t] = self.log_kept[t - 1] + log_kept
        first = max(0, t - self.window)
        self.pushed[first:t] *= 1 - lr * self.weight_decay
        self.pushed[first:t].add_(self.fading[first - t :], alpha=lr * correction / (1 - beta1**t))
        self.taken = t

    def settle(self) -> None:
        """Let every row make up for its steps, as reading the whole table, or keeping it, asks for."""
        for table in self.tables.values():
            for rows in torch.arange(len(table.weight), device=table.last.device).split(SETTLED_AT_ONCE):
                self._catch_up(table, rows)

    def state_dict(self) -> dict[str, Any]:
        until = self.taken + 1
        clock = {"log_kept": self.log_kept[:until].clone(), "pushed": self.pushed[:until].clone()}
        tables = {name: {"m": one.m, "v": one.v, "last": one.last} for name, one in self.tables.items()}
        return {"taken": self.taken, **clock, "tables": tables}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.taken = state["taken"]
        self.log_kept[: self.taken + 1] = state["log_kept"].to(self.log_kept.device)
        self.pushed[: self.taken + 1] = state["pushed"].to(self.pushed.device)
        for name, given in state["tables"].items():
            table = self.tables[name]
            for mine, kept in ((table.m, given["m"]), (table.v, given["v"]), (table.last, given["last"])):
                mine.copy_(kept)

    @torch.no_grad()
    def _catch_up(self, table: _Table, rows: Int[Tensor, " rows"]) -> None:
        """Bring rows to where AdamW would have them by now."""
        s, t = table.last[rows].long(), self.taken
        kept = self.log_kept[t] - self.log_kept[s]
        # a sum that is complete has been decaying ever since
        pushed = self.pushed[s] * (self.log_kept[t] - self.log_kept[(s + self.window).clamp(max=t)]).exp()
        dtype = table.weight.dtype
        decays = [torch.pow(beta, (t - s).double()) for beta in self.betas]
        kept, pushed, beta1, beta2 = (x.to(dtype)[:, None] for x in (kept.exp(), pushed, *decays))
        m, v = table.m[rows], table.v[rows]
        eps = (1 - torch.pow(self.betas[1], s.clamp(min=1).double())).sqrt().mul_(self.eps).to(dtype)[:, None]
        weight = table.weight[rows].mul_(kept).sub_(m.div(v.sqrt().add_(eps)).mul_(pushed))
        table.put(rows, weight, m.mul_(beta1), v.mul_(beta2), t)


class _Table:
    """Hold a table's moments, the last step of each row, and the gradient of some rows."""

    def __init__(self, table: nn.Embedding) -> None:
        self.module, self.weight = table, table.weight
        table.sparse = True
        self.m, self.v = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.last = torch.zeros(len(self.weight), dtype=torch.int32, device=self.weight.device)
        self.rows = self.last[:0].long()
        self.gradient = self.m[:0]

    def read_by(self, catch_up: Any) -> None:
        """Have rows catch up when training reads them."""

        def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            if module.training:
                catch_up(self, arguments[0].flatten())

        self._hook = self.module.register_forward_pre_hook(before)

    def release(self) -> None:
        self._hook.remove()
        self.module.sparse = False

    def put(self, rows: Tensor, weight: Tensor, m: Tensor, v: Tensor, step: int) -> None:
        self.weight.index_copy_(0, rows, weight)
        self.m.index_copy_(0, rows, m)
        self.v.index_copy_(0, rows, v)
        self.last.index_fill_(0, rows, step)

    def collect(self, accelerator: Accelerator, items: Tensor, *, shared: bool) -> Tensor:
        found = self.weight.grad
        self.weight.grad = None
        self.rows = items.sort().values
        if accelerator.num_processes > 1 and not shared:
            self.rows = _of_all(self.rows, accelerator)
        self.gradient = self.m.new_zeros(len(self.rows), self.m.shape[1])
        if found is not None:
            places = torch.searchsorted(self.rows, found._indices()[0])
            self.gradient.index_add_(0, places, found._values())
        if accelerator.num_processes > 1:
            torch.distributed.all_reduce(self.gradient)
            self.gradient.div_(accelerator.num_processes)
        clipped = self.gradient.detach()  # the same numbers
        clipped.grad = self.gradient
        return clipped


def _of_all(rows: Int[Tensor, " own"], accelerator: Accelerator) -> Int[Tensor, " rows"]:
    """Give the rows that any process has, each of a batch of its own, in order."""
    longest = int(_gathered(torch.tensor([len(rows)], device=rows.device), accelerator).max())
    found = _gathered(nn.functional.pad(rows, (0, longest - len(rows))), accelerator).unique()
    return found[found > 0]


def _gathered(value: Tensor, accelerator: Accelerator) -> Tensor:
    gathered = accelerator.gather(value)
    assert isinstance(gathered, Tensor)
    return gathered
