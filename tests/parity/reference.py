"""The method written out plainly, to hold the library against: every position of every user is encoded, one at a time
where that is easiest to read, all tokens pass all layers, and repeated candidates are repeated.

It reads the parameters of an `odmt.ODMT` by name and computes with nothing else of the library. Retyped from the
description of the released implementation (arXiv 2308.04067); no dropout.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(p: dict[str, Tensor], x: Tensor, allowed: Tensor, heads: int) -> Tensor:
    """Compute softmax(Q K^T / sqrt(d)) V for x [rows, dim], head by head."""
    dim = x.shape[1] // heads
    q, k, v = (x @ p[f"{name}.weight"].T for name in ("query", "key", "value"))
    out = []
    for h in range(heads):
        part = slice(h * dim, (h + 1) * dim)
        scores = q[:, part] @ k[:, part].T / math.sqrt(dim)
        out.append(torch.softmax(scores.masked_fill(~allowed, -1e30), dim=1) @ v[:, part])
    return torch.cat(out, dim=1) @ p["output.weight"].T


def block(p: dict[str, Tensor], x: Tensor, allowed: Tensor, heads: int) -> Tensor:
    x = norm(p, "attention_norm", x + attention(below(p, "attention"), x, allowed, heads))
    hidden = F.relu(x @ p["feed_forward.0.weight"].T + p["feed_forward.0.bias"])
    return norm(p, "feed_forward_norm", x + hidden @ p["feed_forward.2.weight"].T + p["feed_forward.2.bias"])


def norm(p: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]


def below(p: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: value for name, value in p.items() if name.startswith(prefix + ".")}


def item_vectors(
    p: dict[str, Tensor], item: int, content: dict[str, Tensor], *, layers: int, heads: int, text_sees_id: bool
) -> dict[str, Tensor]:
    """Encode one item; content: its tokens per modality [tokens, width], none for a modality that it lacks."""
    rows, first, visible = [], {}, []
    for name, tokens in content.items():
        first[name] = len(visible)
        if len(tokens) == 0:
            rows.append(p[f"fusion.missing.{name}"][None])
            visible.append(False)
        else:
            rows.append(tokens @ p[f"fusion.project.{name}.weight"].T + p[f"fusion.project.{name}.bias"])
            visible += [True] * len(tokens)
    first["id"] = len(visible)
    rows.append((p["id_table.weight"][item] @ p["fusion.project.id.weight"].T + p["fusion.project.id.bias"])[None])
    visible.append(True)
    x = torch.cat(rows)
    allowed = torch.zeros(len(x), len(x), dtype=torch.bool)
    for row in range(len(x)):
        for column in range(len(x)):
            blind = column == first["id"] and row != first["id"] and not text_sees_id
            allowed[row, column] = row == column or (visible[column] and not blind)
    for layer in range(layers):
        x = block(below(p, f"fusion.blocks.{layer}"), x, allowed, heads)
    out = {}
    for name in ("id", *content):
        mlp = below(p, f"fusion.heads.{name}")
        hidden = F.leaky_relu(mlp["0.weight"] @ x[first[name]] + mlp["0.bias"], 0.01)
        out[name] = mlp["2.weight"] @ hidden + mlp["2.bias"]
    return out


def sasrec(p: dict[str, Tensor], x: Tensor, mask: Tensor, *, layers: int, heads: int) -> Tensor:
    """Read one history x [length, dim] of the full length, padding included."""
    x = norm(p, "norm", x + p["position.weight"])
    length = len(x)
    allowed = torch.tensor([[t == s or (s <= t and bool(mask[s])) for s in range(length)] for t in range(length)])
    for layer in range(layers):
        x = block(below(p, f"blocks.{layer}"), x, allowed, heads)
    return x


def losses(
    p: dict[str, Tensor],
    sequences: list[list[int]],
    content: dict[int, dict[str, Tensor]],
    log_popularity: Tensor,
    *,
    length: int,
    layers: int,
    heads: int,
    text_sees_id: bool,
    edges: list[tuple[str, str]],
    temperature: float,
    loss: str,
) -> tuple[Tensor, Tensor]:
    """Compute the ranking and the (unweighted) distillation loss of a batch of sequences, oldest event first."""
    padded = [[0] * (length + 1 - len(s)) + s for s in sequences]
    positions = [item for sequence in padded for item in sequence]
    encode = {
        item: item_vectors(p, item, content[item], layers=layers, heads=heads, text_sees_id=text_sees_id)
        for item in sorted(set(positions))
    }
    streams = list(encode[positions[0]])
    rows: dict[str, list[Tensor]] = {name: [] for name in streams}
    labels = []
    for user, sequence in enumerate(padded):
        mask = torch.tensor([item > 0 for item in sequence[:-1]])
        states = {}
        for name in streams:
            x = torch.stack([encode[item][name] for item in sequence[:-1]])
            states[name] = sasrec(below(p, f"backbones.{name}"), x, mask, layers=layers, heads=heads)
        for t in range(length):
            if not mask[t]:
                continue
            label = user * (length + 1) + t + 1
            labels.append(label)
            for name in streams:
                candidates = torch.stack([encode[item][name] for item in positions])
                z = candidates @ states[name][t] - log_popularity[positions]
                drop = [j != label and (item == 0 or item in sequence) for j, item in enumerate(positions)]
                rows[name].append(z.masked_fill(torch.tensor(drop), -1e30))
    logits = {name: torch.stack(rows[name]) for name in streams}
    ranking = torch.stack([F.cross_entropy(z, torch.tensor(labels)) for z in logits.values()]).sum()
    logits["ensemble"] = torch.stack([logits[name] for name in streams]).mean(0)
    distill = torch.zeros((), dtype=ranking.dtype)
    for teacher, student in edges:
        p_teacher = F.softmax(logits[teacher] / temperature, dim=1)
        log_student = F.log_softmax(logits[student] / temperature, dim=1)
        term = -(p_teacher * log_student).sum(1)
        if loss == "kl":
            log_teacher = F.log_softmax(logits[teacher] / temperature, dim=1)
            term = term + (p_teacher * log_teacher).sum(1)
        distill = distill + term.mean() * temperature**2
    return ranking, distill
