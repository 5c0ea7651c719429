"""The method as plain tensor operations over a batch, to hold the library's speed against: what a straightforward
implementation of the paper (arXiv 2308.04067) and its release compute.

All batch*(length + 1) positions are encoded, padding and repeats included; all tokens of an item pass the last layer;
attention is softmax(Q K^T / sqrt(d)) V written out, with W_K and W_V applied to every token; every position is a
candidate; histories are read at full length; evaluation sorts the catalogue once per user and head. Vectorised all the
same: no loop over items or users but where the release has one. It reads the parameters of an `odmt.ODMT` by name, as
`tests.parity.reference` does, which says the same one item at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from odmt.types import Questions, Tokens

__all__ = ["PlainBatch", "argsort_ranks"]


@dataclass(frozen=True)
class PlainBatch:
    """Compute the losses and the catalogue of the model whose named `parameters` these are.

    correction: [num_items + 1], subtracted from the logits: log popularity times its strength.
    """

    parameters: Mapping[str, Tensor]
    correction: Tensor
    streams: Sequence[str]
    length: int
    heads: int = 2
    backbone_heads: int = 2
    text_sees_id: bool = False
    edges: Sequence[tuple[str, str]] = ()
    temperature: float = 1.0
    dropout: float = 0.0

    def encode(self, items: Tensor, content: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """Encode items [n], repeats and padding included, from their tokens [n, tokens, width]: per stream [n, dim]."""
        modalities = [name for name in self.streams if name != "id"]
        rows, visible, first = [], [], {}
        for name in (*modalities, "id"):
            first[name] = sum(part.shape[1] for part in rows)
            if name == "id":
                rows.append(self._linear("fusion.project.id", self.parameters["id_table.weight"][items])[:, None])
                visible.append(torch.ones(len(items), 1, dtype=torch.bool, device=items.device))
                continue
            mask = content[name].mask
            x = self._linear(f"fusion.project.{name}", content[name].values.to(self.correction.dtype))
            rows.append(torch.where(mask[..., None], x, self.parameters[f"fusion.missing.{name}"].to(x.dtype)))
            visible.append(mask)
        x = self._drop(torch.cat(rows, dim=1))
        allowed = torch.cat(visible, dim=1)[:, None, :].repeat(1, x.shape[1], 1)
        if not self.text_sees_id:
            allowed[:, : first["id"], first["id"]] = False
        allowed |= torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        for block in self._blocks("fusion"):
            x = self._block(block, x, allowed, self.heads)
        return {name: self._head(name, x[:, first[name]]) for name in self.streams}

    def losses(self, histories: Tensor, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Compute the ranking and the distillation loss of histories [batch, length + 1] of global ids, left-padded,
        from the vectors of their positions, per stream [batch * (length + 1), dim].
        """
        batch, positions = len(histories), histories.flatten()
        inputs = histories[:, :-1]
        users = torch.arange(batch, device=histories.device).repeat_interleave(inputs.shape[1])
        label = (torch.arange(len(positions), device=histories.device).reshape(batch, -1) + 1)[:, :-1].flatten()
        own = (positions[None, :, None] == histories[:, None, :]).any(2) | (positions == 0)
        dropped = own[users].scatter(1, label[:, None], False)
        real = torch.where(inputs.flatten() > 0)[0]
        logits = {}
        for name, items in vectors.items():
            states = self.states(name, items.reshape(batch, -1, items.shape[1])[:, :-1], inputs > 0).flatten(0, 1)
            z = states @ items.T - self.correction[positions]
            logits[name] = z.masked_fill(dropped, -1e30)[real]
        ranking = torch.stack([F.cross_entropy(z, label[real]) for z in logits.values()]).sum()
        logits["ensemble"] = torch.stack(list(logits.values())).mean(0)
        distill = ranking.new_zeros(())
        for teacher, student in self.edges:
            p = F.softmax(logits[teacher] / self.temperature, dim=1)
            log_q = F.log_softmax(logits[student] / self.temperature, dim=1)
            distill = distill - (p * log_q).sum(1).mean() * self.temperature**2
        return ranking, distill

    def states(self, stream: str, x: Tensor, mask: Tensor) -> Tensor:
        """Read one stream's histories [batch, length, dim] with SASRec, padding included."""
        name = f"backbones.{stream}"
        length = x.shape[1]
        x = self._drop(self._norm(f"{name}.norm", x + self.parameters[f"{name}.position.weight"][-length:]))
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        allowed = causal & mask[:, None, :] | torch.eye(length, dtype=torch.bool, device=x.device)
        for block in self._blocks(name):
            x = self._block(block, x, allowed, self.backbone_heads)
        return x

    @torch.no_grad()
    def encode_catalogue(self, batches: Iterable[tuple[Tensor, Mapping[str, Tokens]]]) -> dict[str, Tensor]:
        """Encode the catalogue as the release does: batch after batch, all tokens through all layers, to the CPU."""
        parts = [{name: x.cpu() for name, x in self.encode(*batch).items()} for batch in batches]
        return {name: torch.cat([part[name] for part in parts]) for name in self.streams}

    def _blocks(self, prefix: str) -> Iterator[str]:
        names = (f"{prefix}.blocks.{layer}" for layer in count())
        return takewhile(lambda name: f"{name}.attention_norm.weight" in self.parameters, names)

    def _block(self, name: str, x: Tensor, allowed: Tensor, heads: int) -> Tensor:
        x = self._norm(f"{name}.attention_norm", x + self._drop(self._attention(name, x, allowed, heads)))
        hidden = F.relu(self._linear(f"{name}.feed_forward.0", x))
        return self._norm(f"{name}.feed_forward_norm", x + self._drop(self._linear(f"{name}.feed_forward.2", hidden)))

    def _attention(self, name: str, x: Tensor, allowed: Tensor, heads: int) -> Tensor:
        q, k, v = (
            F.linear(x, self.parameters[f"{name}.attention.{part}.weight"]).unflatten(2, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).masked_fill(~allowed[:, None], -1e30)
        mixed = self._drop(torch.softmax(scores, dim=3)) @ v
        return F.linear(mixed.transpose(1, 2).flatten(2), self.parameters[f"{name}.attention.output.weight"])

    def _head(self, name: str, x: Tensor) -> Tensor:
        hidden = F.leaky_relu(self._linear(f"fusion.heads.{name}.0", x), 0.01)
        return self._linear(f"fusion.heads.{name}.2", hidden)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"], 1e-6)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout) if self.dropout else x


def argsort_ranks(
    states: Mapping[str, Tensor], tables: Mapping[str, Tensor], questions: Questions
) -> dict[str, np.ndarray]:
    """Rank targets as the release does: score a batch of users, then mask and sort the catalogue user by user and
    stream by stream; states: per stream [users, dim]. A target keeps its score where its user had it before.
    """
    targets = torch.from_numpy(questions.targets.astype(np.int64)).to(next(iter(states.values())).device)
    scores = {name: states[name] @ tables[name].T for name in tables}
    scores["ensemble"] = torch.stack(list(scores.values())).mean(0)
    found = {head: np.zeros(len(targets), dtype=np.float32) for head in scores}
    for user, target in enumerate(targets):
        seen = [0, *(item for item in questions.seen[user].tolist() if item != target)]
        for head, rows in scores.items():
            row = rows[user].clone()
            row[seen] = -torch.inf
            order = torch.argsort(row, descending=True)
            found[head][user] = (order == target).nonzero()[0, 0].item() + 1
    return found
