"""The tree of settings: what can be written in YAML and on the command line, with defaults and explanations.

`odmt.config` fills it and checks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from odmt.flags import ConfigError, read_pairs

__all__ = ["DataConfig", "DistillConfig", "Experiment", "ModelConfig", "TrainConfig"]


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how much of it."""

    root: str = "data"
    """Folder of the dataset folders; `--dataset NAME` means ROOT/NAME unless NAME is itself a path."""
    length: int = 10
    """Events a user state is computed from. Histories are cut to the newest LENGTH + 3 before the split."""
    features: tuple[str, ...] = ()
    """Which features to read where a modality has several, as MODALITY=KEY or MODALITY=ENCODER: text=tfidf. A further
    stream reads others of a modality beside them, as STREAM=MODALITY:ENCODER: words=text:tfidf."""
    max_tokens: tuple[str, ...] = ()
    """Most tokens read per item, as MODALITY=NUMBER: text=30 image=50. Without it, all that are stored."""
    augment: tuple[str, ...] = ()
    """What training does to pictures and clips before encoders that are trained read them, anew for every epoch and
    item, as STREAM=AUGMENTATION: video=crop(least=0.5), or one of your own."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""
    store_gb: float = 0.0
    """Disk, per stream and way to read it, for decoded pictures and frames, in DATASET/decoded: later epochs need not
    decode again. The most frequent items come first; 0 keeps none."""

    def selected_features(self) -> dict[str, str]:
        """Read `features` as {stream: key or encoder, or modality:encoder}."""
        return read_pairs(self.features, "data.features", "text=tfidf")

    def augmentations(self) -> dict[str, str]:
        """Read `augment` as {stream: component call}."""
        return read_pairs(self.augment, "data.augment", '"video=crop(least=0.5)"')

    def token_limits(self) -> dict[str, int]:
        """Read `max_tokens` as {modality: number}."""
        pairs = read_pairs(self.max_tokens, "data.max_tokens", "text=30")
        for modality, number in pairs.items():
            if not (number.isdecimal() and int(number) > 0):
                raise ConfigError(f"data.max_tokens: {modality}={number} is no number above 0; write {modality}=30")
        return {modality: int(number) for modality, number in pairs.items()}


@dataclass(frozen=True)
class ModelConfig:
    """What is trained. A component is written as a call, and may be your own: "my_pkg.nets:Mamba(state=16)"."""

    streams: tuple[str, ...] = ("id", "text")
    """What an item is seen through: id, any modality with features, and further ones that --data.features names; each
    is a head unless the fusion or the join makes one of them."""
    encoders: tuple[str, ...] = ()
    """Encoders that are trained with the rest, from raw content, as STREAM=ENCODER or STREAM=ENCODER @ POLICY, such as
    "image=resnet18 @ top(2)"."""
    encoder_policy: str = "full"
    """How far training reaches into encoders without a policy of their own: full; top(2), the last two blocks;
    lora(r=8); frozen-live; frozen, which reads what that encoder has stored."""
    dim: int = 128
    """Width of item vectors and user states."""
    fusion: str = "imt(layers=2, heads=2)"
    """How the streams of an item inform each other: imt (ID-aware transformer), independent (not at all),
    "independent(content='pca')", whose content starts as near as its encoder says, or joint, where all content is one
    stream that starts so."""
    join: str = "none"
    """Where streams become one: none (only scores are combined), or sum, concat, gated, attention, as "sum(at='item')"
    (early) or "gated(at='user', keep=['text'])" (middle). The streams that `keep` names stay heads beside it; True
    keeps all, 'content' all but the id."""
    backbone: str = "sasrec(layers=2, heads=2)"
    """Sequence model; every stream has one of its own."""
    stream_backbones: tuple[str, ...] = ()
    """Streams that another model reads, as STREAM=BACKBONE: id=gru4rec content=recency (content: all but the id)."""
    further_heads: tuple[str, ...] = ()
    """Streams that are read once more, as STREAM=BACKBONE: item=gru4rec makes the head item_gru4rec,
    and a second one of that name item_gru4rec_2; item alone, read by the backbone once more, makes item_2."""
    own_items: bool = False
    """Let further heads encode items by themselves, with ids, fusion and join of their own."""
    similarity: str = "product"
    """What makes a score of a user's state and an item: product, as released, or cosine(scale=16)."""
    loss: str = "in_batch(popularity=1.0)"
    """What a target competes with: in_batch, corrected for popularity; sampled(draws=512); gbce(draws=256, t=0.75);
    full, the whole catalogue (ids and small catalogues, no distillation)."""
    ensemble: str = "mean"
    """How streams' scores are combined: mean; fitted, a weight per stream that makes the targets of validation most
    likely; weighted, one that is trained."""
    dropout: float = 0.1
    """Dropout wherever a component's call does not set its own."""
    id_init: str = "random"
    """What the id table starts from: random, the first token of a modality (text, image, ...), or the mean of all."""
    hide: tuple[str, ...] = ()
    """Share of a batch's items that are trained on without a stream, as STREAM=RATE: id=0.2 text=0.1."""
    id_min_count: int = 0
    """Ids of items with fewer training events are hidden; their content stands in."""

    def encoders_of_streams(self) -> dict[str, tuple[str, str]]:
        """Read `encoders` as {stream: (encoder, policy)}."""
        pairs = read_pairs(self.encoders, "model.encoders", '"image=resnet18 @ top(2)"')
        found = {}
        for stream, text in pairs.items():
            # an @ within brackets or quotes is part of a path
            encoder, at, policy = text.rpartition(" @ ")
            found[stream] = (encoder.strip(), policy.strip()) if at else (text.strip(), self.encoder_policy)
        return found

    def backbones_of_streams(self) -> dict[str, str]:
        """Read `stream_backbones` as {stream: component call}."""
        return read_pairs(self.stream_backbones, "model.stream_backbones", "text=recency")

    def heads_beside(self) -> dict[str, tuple[str, str]]:
        """Read `further_heads` as {head: (stream, component call)}."""
        heads: dict[str, tuple[str, str]] = {}
        for entry in self.further_heads:
            stream, written, call = entry.partition("=")
            if written:
                read_pairs([entry], "model.further_heads", "item=gru4rec")
            name = call.partition("(")[0].rpartition(":")[2].rpartition(".")[2].strip().lower()
            first = f"{stream}_{name}" if written else stream
            head, number = first, 2
            while head in heads or head == stream:
                head, number = f"{first}_{number}", number + 1
            heads[head] = stream, call if written else self.backbone
        return heads

    def hide_rates(self) -> dict[str, float]:
        """Read `hide` as {stream: rate}."""
        rates = {}
        for stream, rate in read_pairs(self.hide, "model.hide", "id=0.2").items():
            try:
                rates[stream] = float(rate)
            except ValueError as error:
                raise ConfigError(f"model.hide: {stream}={rate} is no number; write {stream}=0.2") from error
        return rates


@dataclass(frozen=True)
class DistillConfig:
    """Which streams teach which while they train."""

    graph: tuple[str, ...] = ()
    """Edges "teacher -> student", or "a <-> b", between streams; "ensemble" may teach, and "*" is every other; an edge
    may have a loss of its own: "ensemble -> id: kl(weight=0.5, detach=True)". No edges: no distillation, because the
    recommendation was no better with it on real data, and worse as published (experiments/results/README.md)."""
    temperature: float = 0.5
    """Softmax temperature of teacher and student, for edges that set none."""
    loss: str = "ce"
    """Loss of edges that name none: ce, kl, dkd(alpha=1.0, beta=2.0), ranking(top=10)."""
    detach: bool = True
    """Keep the gradient out of the teachers, for edges that do not say. The published method lets it in, by which
    teachers become sure, whether they are right or not."""
    weight: float = 1.0
    """Weight of the distillation loss once it is ramped up."""
    ramp_epochs: float = 10.0
    """Epochs over which the weight rises, slowly at first; 0 gives the full weight from the start. Published: 50."""
    ramp_by: Literal["epoch", "step"] = "epoch"
    """Whether it rises once per epoch, as released, or with every step."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained; the checkpoint with the best validation NDCG@10 of the ensemble is the result."""

    epochs: int = 40
    """Most passes over the users."""
    batch_size: int = 256
    """Users per batch, shared among the processes."""
    candidates: Literal["global", "process"] = "global"
    """Whether the items of a batch are candidates for all its users, so that it does not matter how many processes
    share it, or only for those whom the same process reads, as released."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Weight decay of AdamW."""
    id_updates: Literal["dense", "lazy"] = "dense"
    """Whether every row of the id table takes a step with every batch, or rows of a batch alone, and make up for the
    steps they missed: the same but for AdamW's eps, at a cost that does not grow with the catalogue."""
    encoder_lr: float = 1e-4
    """Peak learning rate of the encoders' parameters."""
    encoder_weight_decay: float = 0.01
    """Weight decay of the encoders' parameters."""
    encode_chunk: int = 64
    """Items that pass the encoders at a time in training, each chunk once more in the backward pass, so that memory
    does not grow with the batch; 0 lets all of a batch pass at once, which is faster where memory bears it."""
    encoder_checkpointing: bool = False
    """Keep no activations inside the blocks of the encoders, and compute them again in the backward pass: for items
    that are large by themselves, such as long clips."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """Learning rate after the warm-up: as it is, or falling to 0 at the last epoch."""
    clip: float = 5.0
    """Largest norm of the gradient; larger ones are scaled down. 0 leaves all as they are."""
    patience: int = 5
    """Epochs without a better validation score before training stops; 0 never stops early."""
    bf16: bool = False
    """Multiply matrices in bfloat16."""
    compile: bool = False
    """Let torch.compile make kernels of the transformer blocks: minutes at first, and no gain on most CPUs."""
    eval_users: int = 0
    """Users validated after an epoch, a fixed random choice; 0 takes all. The test takes all users in any case."""
    mask_history: bool = True
    """Keep the items of a user's own history out of the ranking."""
    repeats: Literal["rank", "miss"] = "rank"
    """A target that the history holds already is ranked like any other, or always a miss (the released evaluation)."""
    log_every: int = 50
    """Steps between two lines of losses in metrics.jsonl."""
    checkpoint_minutes: float = 15.0
    """Minutes between checkpoints within an epoch; 0 saves after epochs only."""
    keep_checkpoints: int = 2
    """How many checkpoints to keep: should the newest be damaged, a run goes on from the one before it."""


@dataclass(frozen=True)
class Experiment:
    """Train a recommender on a dataset folder and test the best epoch once.

    Later sources win: defaults, the dataset's YAML, --ablation files in order, the command line.
    """

    dataset: str
    """Dataset folder: a name under --data.root, or a path."""
    name: str | None = None
    """Name of the run. By default DATASET-ABLATIONS-sSEED."""
    ablation: tuple[str, ...] = field(default=(), compare=False)
    """YAML files laid on top, in this order: names in experiments/ablations or experiments/configs, or paths."""
    config: str | None = field(default=None, compare=False)
    """YAML file to start from. By default the one in experiments/configs named like the dataset, if there is one."""
    output: str = "runs"
    """Folder of the run folders."""
    seed: int = 1
    """Seed of initial weights, batches and dropout."""
    overwrite: bool = field(default=False, compare=False)
    """Replace the run folder if it exists."""
    resume: bool = field(default=False, compare=False)
    """Go on from the last checkpoint in the run folder."""
    trackers: tuple[str, ...] = ()
    """Where accelerate logs besides metrics.jsonl: tensorboard, wandb, ..."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def folder(self) -> Path:
        """Give the run's folder, OUTPUT/NAME."""
        return Path(self.output) / (self.name or self.default_name)

    @property
    def default_name(self) -> str:
        """Name the run after its dataset, ablations and seed."""
        ablations = "+".join(Path(name).name.removesuffix(".yaml") for name in self.ablation)
        return "-".join(part for part in (Path(self.dataset).absolute().name, ablations, f"s{self.seed}") if part)
