"""ODMT: one recommender per stream over jointly fused items, learning from each other while they train (arXiv
2308.04067).

A batch's distinct items are encoded once and every stream's candidates are those items, which gives the released
in-batch loss exactly (see `odmt.ranking`). The components know nothing of each other: any `odmt.types.Backbone` or
`Fusion` will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from odmt.components import ENSEMBLES, JOINS, LOSSES, RESERVED, SIMILARITIES
from odmt.distill import DistillationGraph
from odmt.heads import chosen_backbones, made_backbone, read_again
from odmt.items import ItemEncoder, build_component, evaluating, items_apart
from odmt.own import checked_histories, checked_module, checked_states, newest_states
from odmt.parts import user_parts
from odmt.ranking import FullSoftmax, RankingLoss, Rows, candidate_logits, draw_shares, some_of
from odmt.sharing import gathered, share_of_rows
from odmt.softmax import softmax_loss
from odmt.types import Backbone, Batch, Bool, Contents, Float, Fusion, FusionMaker, Int, Raw, Streams, Tensor, Tokens

__all__ = ["ODMT"]


class ODMT(ItemEncoder):
    """Recommend from item features and histories; the argument lists below are the whole interface.

    features: stored token features of the catalogue; without any modality, only the id stream exists.
    streams: what enters the fusion, a subset of "id" and the features' modalities; by default all of them.
    fusion: a component call, "imt(layers=2)", or a module of your own, or what makes it (see `odmt.types.Fusion`).
    join: where the fused streams become one: "none" (scores alone are averaged), or a component call of `odmt.joins`,
        "sum(at='item')" or "gated(at='user')".
    backbone: a component call, or a callable that makes a new module for each stream (`odmt.types.Backbone`).
    stream_backbones: the same for single streams, which they read instead: {"text": "recency"}; "content" stands for
        all streams but the id and the joined one.
    further_heads: streams that are read once more by a backbone unlike the first, whose mistakes are others:
        {"item_gru4rec": ("item", "gru4rec")}.
    own_items: whether further heads, which then read the stream that is joined at the item (or the only one), encode
        items by themselves, with ids, a fusion and a join of their own; heads that share their items are much alike.
    similarity: of states and items: "product", or "cosine(scale=16)", see `odmt.similarity`.
    loss: a component call of `odmt.ranking`: "in_batch(popularity=1.0)", "full", "sampled(draws=512)", "gbce(t=0.75)".
    distill: edges along which streams teach each other: "id -> text", several such, or their graph; by default none.
    ensemble: "mean", "fitted" or "weighted", see `odmt.ensembles`.
    item_counts: [num_items + 1] how often each item occurs in training, for the popularity correction of the ranking
        loss and the drawing of items; without it no correction is made and items are drawn uniformly.
    length: longest history that will be read.
    id_init, hide, id_min_count, encoders, chunk, start: see `odmt.items.ItemEncoder`.
    """

    def __init__(
        self,
        features: Contents,
        *,
        streams: Sequence[str] = (),
        dim: int = 128,
        fusion: str | Fusion | FusionMaker = "imt(layers=2, heads=2)",
        join: str = "none",
        backbone: str | Callable[[], Backbone] = "sasrec(layers=2, heads=2)",
        stream_backbones: Mapping[str, str | Callable[[], Backbone]] | None = None,
        further_heads: Mapping[str, tuple[str, str | Callable[[], Backbone]]] | None = None,
        own_items: bool = False,
        similarity: str = "product",
        loss: str = "in_batch(popularity=1.0)",
        distill: DistillationGraph | str | Sequence[str] | None = None,
        ensemble: str = "mean",
        item_counts: np.ndarray | None = None,
        length: int = 10,
        dropout: float = 0.1,
        id_init: str = "random",
        hide: Mapping[str, float] | None = None,
        id_min_count: int = 0,
        encoders: Mapping[str, nn.Module] | None = None,
        chunk: int = 0,
        start: bool = True,
    ) -> None:
        hiding = {"hide": hide, "id_min_count": id_min_count, "item_counts": item_counts}
        items: dict[str, Any] = {"streams": streams, "dim": dim, "dropout": dropout, "fusion": fusion, "join": join}
        items |= {"id_init": id_init, "start": start, **hiding}
        super().__init__(features, encoders=encoders, chunk=chunk, **items)
        self.length = length
        first = self.vectors if self.join is None else (*self.join.kept, self.join.at)
        self.read_again = read_again(further_heads or {})
        """Which stream each further head reads."""
        self.apart = nn.ModuleDict(items_apart(features, items, self.read_again, self.encoders) if own_items else {})
        self.streams = (*first, *self.read_again)
        """Streams that score: one ranking loss each, and what the ensemble combines."""
        at_user = self.join is not None and self.join.at == "user"
        read = self.join.joined if self.join is not None and at_user else self.vectors
        context = {"dim": dim, "dropout": dropout, "length": length}
        contents = [name for name in read if name in self.modalities]
        chosen = chosen_backbones(read, contents, backbone, stream_backbones or {}, further_heads or {})
        if taken := self.read_again.keys() & {*self.vectors, *RESERVED}:
            raise ValueError(f"further_heads: there is a stream {min(taken)!r} already; give the head another name")
        self.backbones = nn.ModuleDict({name: made_backbone(name, how, context, start) for name, how in chosen.items()})
        if len(set(self.backbones.values())) < len(chosen):
            raise ValueError("backbone() returned the same module twice; make a new one at each call")
        self.hide_rates = {getattr(made, "hide_rate", None) for made in self.backbones.values()}
        if len(self.hide_rates) > 1:
            raise ValueError(
                f"backbones hide different shares of events, {self.hide_rates}, and would predict different ones; take "
                "only such as look one way, or only such as look both ways (also as stream_backbones, further_heads)"
            )
        self.join_states = build_component(join, JOINS, "join", {"dim": dim, "streams": read}) if at_user else None
        self.similarity = checked_module(build_component(similarity, SIMILARITIES, "similarity", {}), "similarity")
        self.loss: RankingLoss | FullSoftmax = build_component(loss, LOSSES, "loss", {"num_items": self.num_items})
        edges = [distill] if isinstance(distill, str) else distill or ()
        graph = edges if isinstance(edges, DistillationGraph) else DistillationGraph(*edges)
        self.distill = graph.among(self.streams)
        self.ensemble = checked_module(
            build_component(ensemble, ENSEMBLES, "ensemble", {"streams": self.streams}), "ensemble"
        )
        if isinstance(self.loss, FullSoftmax) and (self.distill.edges or self.ensemble.trained):
            raise ValueError(
                "loss 'full' leaves no logits to distil or to weigh: empty the graph and average, or take another loss"
            )
        if isinstance(self.loss, FullSoftmax) and self.encoders:
            raise ValueError(
                "loss 'full' would encode the whole catalogue at every step; train encoders with another loss"
            )
        self.log_popularity: Tensor
        self.register_buffer("log_popularity", _log_popularity(item_counts, self.num_items))
        self.draw_shares = draw_shares(
            np.ones(self.num_items + 1) if item_counts is None else item_counts, self.loss.draw_popularity
        )
        self.log_share: Tensor
        self.register_buffer("log_share", torch.from_numpy(self.draw_shares).log().float(), persistent=False)

    def _encoded(self, items: Tensor, content: Mapping[str, Tokens | Raw]) -> Streams:
        content = self._tokens(content)
        vectors = dict(super()._encoded(items, content))
        for head, encoder in self.apart.items():
            assert isinstance(encoder, ItemEncoder)
            given = {"id" if name == f"{head}.id" else name: one for name, one in content.items() if name != "id"}
            vectors[head] = encoder.encode(items, given)[self.read_again[head]]
        return {name: self.similarity(made) for name, made in vectors.items()}

    def _looked_up(self, items: Tensor) -> dict[str, Tokens]:
        found = super()._looked_up(items)
        for head, encoder in self.apart.items():
            assert isinstance(encoder, ItemEncoder)
            found |= {f"{head}.{name}": one for name, one in encoder._looked_up(items).items()}
        return found

    def encode(self, items: Int[Tensor, " items"], content: Mapping[str, Tokens | Raw] | None = None) -> Streams:
        """Turn items (global ids) into one vector per stream, [items, dim], as the backbones and scores take them."""
        return self._again(super().encode(items, content))

    def encode_catalogue(self, chunk: int = 0, **sharing: Any) -> Streams:
        """Encode every item once, as `odmt.items.ItemEncoder` does."""
        return self._again(super().encode_catalogue(chunk, **sharing))

    def _again(self, vectors: Streams) -> Streams:
        shared = {head: vectors[stream] for head, stream in self.read_again.items() if head not in self.apart}
        return {**vectors, **shared}

    def forward(self, batch: Batch, distill_weight: float = 1.0) -> dict[str, Float[Tensor, ""]]:
        """Compute the losses of a batch whose histories hold inputs and targets: each position predicts the next.

        "ranking" is the sum of the streams' next-item losses, "distill" the graph's loss times `distill_weight`, and
        "ensemble", where its weights are trained, the next-item loss of the ensemble. Of a batch that processes share,
        their mean over processes is the loss.
        """
        losses, rows = self._losses(batch, distill_weight)
        if batch.part is None:
            return losses
        share = share_of_rows(rows, batch.part, self.device)
        return {name: share.to(loss.dtype) * loss for name, loss in losses.items()}

    def _candidates(self, batch: Batch) -> Streams:
        """Encode what this process is to encode, and gather what the others did."""
        items, content = batch.items, batch.content
        if isinstance(self.loss, FullSoftmax):
            items, content = torch.arange(1, self.num_items + 1, device=self.device), None
        if batch.part is None:
            return self.encode(items, content)
        vectors = super().encode(batch.part.of(items), content)
        return self._again(gathered(vectors, len(items), batch.part))

    def _losses(self, batch: Batch, distill_weight: float) -> tuple[dict[str, Float[Tensor, ""]], int]:
        """Average over this process's rows, and say how many there are."""
        vectors = self._candidates(batch)
        histories = batch.items[batch.histories] - 1 if isinstance(self.loss, FullSoftmax) else batch.histories
        hidden = self._hidden_events(batch)
        order, parts = user_parts(batch.mask, at_once=not self.in_parts)
        histories, mask = histories[order], batch.mask[order]
        hidden = None if hidden is None else hidden[order]
        # without hidden events, every event but a user's first is predicted, from those before it
        predicted = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1) if hidden is None else hidden
        states = self._states(vectors, histories, mask, predicted, parts, hide=hidden is not None)
        if isinstance(self.loss, FullSoftmax):
            targets = some_of(histories, predicted)
            losses = [softmax_loss(states[name], vectors[name], targets) for name in self.streams]
            return {"ranking": torch.stack(losses).sum(), "distill": losses[0].new_zeros(())}, len(targets)

        rows = Rows.of(histories, mask, predicted, len(batch.items))
        precise = torch.promote_types(self.log_popularity.dtype, torch.float32)
        weights = self.loss.log_weights(batch, rows, self.log_share[batch.items], dtype=precise)
        correction = self.loss.correction(self.log_popularity[batch.items])
        if self.loss.is_softmax and not self.distill.edges and not self.ensemble.trained:
            losses = [
                softmax_loss(states[name], vectors[name], rows.targets, correction=correction, log_weights=weights)
                for name in self.streams
            ]
            return {"ranking": torch.stack(losses).sum(), "distill": losses[0].new_zeros(())}, len(rows.targets)

        m = weights(slice(None))
        logits = {name: candidate_logits(states[name], vectors[name], correction) for name in self.streams}
        losses = {"ranking": torch.stack([self.loss(z, rows.targets, m) for z in logits.values()]).sum()}
        if self.ensemble.trained:
            streams = logits if self.ensemble.joint else {name: z.detach() for name, z in logits.items()}
            losses["ensemble"] = self.loss(self._combined(streams, correction), rows.targets, m)
        # weights that are fitted elsewhere do not teach
        teachers = {**logits, "ensemble": self._combined(logits, correction)} if self.ensemble.trained else logits
        losses["distill"] = distill_weight * self.distill(teachers, m, rows.targets)
        return losses, len(rows.targets)

    def _combined(self, logits: Mapping[str, Tensor], correction: Tensor | None) -> Tensor:
        """Weigh scores, as at recommendation, and correct their sum once: weights need not add up to 1."""
        if correction is None:
            return self.ensemble(logits)
        return self.ensemble({name: z + correction for name, z in logits.items()}) - correction

    def _hidden_events(self, batch: Batch) -> Bool[Tensor, "users length"] | None:
        """Draw the events that backbones which learn from hidden ones are to guess, at least one per user."""
        rate, mask = next(iter(self.hide_rates)), batch.mask
        if rate is None:
            return None
        generator = None if batch.seed is None else torch.Generator().manual_seed(batch.seed)
        chance = torch.rand(len(mask) if batch.part is None else batch.part.users, mask.shape[1], generator=generator)
        own = chance if batch.part is None else batch.part.of(chance)
        hidden = mask & (own < rate).to(mask.device)
        none = ~hidden.any(1)
        hidden[:, -1] |= none & mask[:, -1]
        return hidden

    def _states(
        self,
        vectors: Streams,
        histories: Tensor,
        mask: Tensor,
        predicted: Tensor,
        parts: Sequence[tuple[slice, int]],
        *,
        hide: bool,
    ) -> dict[str, Float[Tensor, "rows dim"]]:
        """Read histories, and keep the states from which the predicted events are guessed, row by row."""
        states = {}
        for name, backbone in self.backbones.items():
            made = []
            for users, first in parts:
                inputs = slice(first, None) if hide else slice(first, -1)
                seen, asked = mask[users, inputs], predicted[users, first if hide else first + 1 :]
                # a padded slot points at some item, and must not carry it
                x = vectors[name][histories[users, inputs]] * seen.unsqueeze(-1)
                made.append(checked_states(backbone(x, seen, asked) if hide else backbone(x, seen), x, name)[asked])
            states[name] = torch.cat(made)
        return self._scoring(states)

    def _scoring(self, states: Streams) -> dict[str, Tensor]:
        """Join states where users are joined, and make them ready to score."""
        joined = states if self.join_states is None else {**states, "user": self.join_states(states)}
        return {name: self.similarity(joined[name]) for name in self.streams}

    @torch.inference_mode()
    def states(self, histories: Int[Tensor, "batch length"], tables: Streams) -> Streams:
        """Read histories of global ids (left-padded with 0, newest last): one user state per scoring stream, [batch,
        dim]; tables: as of `encode_catalogue`.
        """
        histories = checked_histories(histories, self.num_items).to(self.device)
        with evaluating(self):
            states = {
                name: newest_states(backbone, tables[name][histories], histories > 0, name)
                for name, backbone in self.backbones.items()
            }
            return self._scoring(states)

    def score(self, histories: Int[Tensor, "batch length"], tables: Streams) -> Streams:
        """Score the whole catalogue for each history: per stream [batch, num_items + 1], without popularity
        correction. Column 0 is padding, with 0 for a score and not -inf: leave it out of a topk, which may return it.
        """
        return {name: state @ tables[name].T for name, state in self.states(histories, tables).items()}


def _log_popularity(item_counts: np.ndarray | None, num_items: int) -> Tensor:
    if item_counts is None:
        return torch.zeros(num_items + 1)
    if len(item_counts) != num_items + 1:
        raise ValueError(
            f"item_counts has {len(item_counts)} entries, but {num_items} items need {num_items + 1} (0 is padding)"
        )
    counts = torch.from_numpy(np.maximum(item_counts, 1)).double()  # what never occurs is no candidate in training
    return (counts / float(item_counts.sum())).log().float()
