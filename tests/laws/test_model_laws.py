"""What must hold for every model, whatever its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from odmt import ODMT, DistillationGraph, ItemFeatures, SASRec, ensemble, make_batch
from odmt.similarity import Cosine
from odmt.types import Fusion, Streams

NUM_ITEMS = 20
HISTORIES = np.array([[0, 0, 1, 2, 3], [4, 5, 2, 6, 7], [0, 8, 9, 10, 1]])


@pytest.fixture
def features() -> ItemFeatures:
    rng = np.random.default_rng(0)
    text = [rng.normal(size=(1 + i % 4, 6)).astype("float32") for i in range(NUM_ITEMS)]
    image = [rng.normal(size=(3, 5)).astype("float32") if i % 3 else None for i in range(NUM_ITEMS)]
    return ItemFeatures.from_arrays(NUM_ITEMS, text=text, image=image)


def make_model(features: ItemFeatures, **settings: object) -> ODMT:
    torch.manual_seed(3)
    return ODMT(features, **{"dim": 8, "length": 6, **settings})  # pyright: ignore[reportArgumentType]


def test_content_learns_nothing_from_the_id_unless_told(features: ItemFeatures) -> None:
    for sees in (False, True):
        model = make_model(features, fusion=f"imt(text_sees_id={sees})")
        model.encode(torch.arange(1, 6))["text"].sum().backward()
        gradient = model.id_table.weight.grad
        assert gradient is not None
        assert bool((gradient != 0).any()) is sees


def test_the_id_learns_from_content(features: ItemFeatures) -> None:
    model = make_model(features)
    model.encode(torch.arange(2, 4))["id"].sum().backward()
    weight = model.fusion.project["text"].weight
    assert weight.grad is not None
    assert (weight.grad != 0).any()


def test_an_item_does_not_depend_on_the_items_beside_it(features: ItemFeatures) -> None:
    model = make_model(features).eval()
    together = model.encode(torch.arange(1, NUM_ITEMS + 1))
    for item in (1, 4, 7):  # of 1 to 4 text tokens, with and without an image
        alone = model.encode(torch.tensor([item]))
        for name in model.streams:
            torch.testing.assert_close(alone[name][0], together[name][item - 1])


def test_parts_change_nothing(features: ItemFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(features, dropout=0.0, distill=DistillationGraph("id -> text", "ensemble -> id")).double()
    batch = make_batch(HISTORIES, features)
    found = []
    for tokens, users in ((1 << 20, 100), (9, 1)):  # everything at once; an item or two and a user at a time
        monkeypatch.setattr("odmt.parts.PART_ROWS", tokens)
        monkeypatch.setattr("odmt.parts.USER_PART", users)
        model.zero_grad()
        loss = torch.stack(list(model(batch).values())).sum()
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((loss.detach(), gradients, model.encode_catalogue()))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_missing_content_is_a_mask(features: ItemFeatures) -> None:
    """Whatever lies in the slots of a missing modality, nothing reads it, and gradients stay finite."""
    model = make_model(features)
    items = torch.tensor([1, 4])  # neither has an image
    content = {name: features.gather(name, items.numpy()) for name in features.widths}
    assert not content["image"].mask.any()
    with torch.no_grad():
        model.eval()
        before = model.encode(items, content)
        content["image"].values.fill_(1e3)
        after = model.encode(items, content)
    for name in model.streams:
        torch.testing.assert_close(before[name], after[name])
        assert after[name].isfinite().all()


def test_the_ensemble_is_the_mean(features: ItemFeatures) -> None:
    model = make_model(features)
    scores = model.score(torch.from_numpy(HISTORIES), model.encode_catalogue())
    assert list(scores) == ["id", "text", "image"]
    torch.testing.assert_close(model.ensemble(scores), (scores["id"] + scores["text"] + scores["image"]) / 3)


def test_catalogue_and_scores_do_not_depend_on_chunks_or_on_the_mode(features: ItemFeatures) -> None:
    model = make_model(features, dropout=0.5)
    first, second = model.encode_catalogue(chunk=3), model.encode_catalogue(chunk=100)
    assert model.training
    for name in model.streams:
        torch.testing.assert_close(first[name], second[name])
        assert not first[name][0].any()


def test_the_padding_row_stays_zero(features: ItemFeatures) -> None:
    for init in ("random", "text"):
        model = make_model(features, id_init=init)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        torch.stack(list(model(make_batch(HISTORIES, features, model.modalities)).values())).sum().backward()
        optimizer.step()
        assert not model.id_table.weight[0].any()


def test_id_table_starts_as_a_copy_of_content(features: ItemFeatures) -> None:
    model = make_model(features, id_init="text")
    first = torch.stack([features.gather("text", [item]).values[0, 0] for item in range(1, NUM_ITEMS + 1)])
    torch.testing.assert_close(model.id_table.weight[1:], first.float())
    with torch.no_grad():
        model.id_table.weight.zero_()
    assert features.gather("text", [1]).values.any()


def test_id_table_starts_as_the_mean_of_what_pca_makes_alike(features: ItemFeatures) -> None:
    narrow = np.stack([features.gather("text", [item]).values[0, 0].numpy() for item in range(1, NUM_ITEMS + 1)])
    wide = np.concatenate([2 * narrow @ np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0], narrow], axis=1)
    arrays = {"text": narrow[:, None], "image": wide[:, None].astype("float32")}
    model = make_model(ItemFeatures.from_arrays(NUM_ITEMS, **arrays), id_init="mean")
    rest = 2 * model.id_table.weight[1:].detach().double() - torch.from_numpy(narrow)
    assert rest.shape == (NUM_ITEMS, 6)
    # the six directions hold all that the twelve numbers tell: distances between items are theirs
    centred = torch.from_numpy(wide - wide.mean(0)).double()
    torch.testing.assert_close(torch.cdist(rest, rest), torch.cdist(centred, centred), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(rest.T @ rest, torch.diag((rest.T @ rest).diag()), rtol=0, atol=1e-2)


FUSED = [
    "imt(layers=1, heads=1)",
    "imt(layers=3, heads=4)",
    "imt(text_sees_id=True, isolated=True)",
    "imt(token_types=True, pre_norm=True, summary='mean')",
    "independent",
]


@pytest.mark.parametrize("fusion", FUSED)
@pytest.mark.parametrize("streams", [("id",), ("text",), ("id", "text"), ("image", "id"), ("id", "text", "image")])
def test_every_fusion_trains_on_any_streams(features: ItemFeatures, fusion: str, streams: tuple[str, ...]) -> None:
    model = make_model(features, fusion=fusion, streams=streams, item_counts=np.ones(NUM_ITEMS + 1))
    assert isinstance(model.fusion, Fusion)
    losses = model(make_batch(HISTORIES, features, model.modalities))
    losses["ranking"].backward()
    assert losses["distill"].item() == 0.0
    touched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not touched, f"no gradient reaches {touched}"
    assert set(model.encode_catalogue()) == set(model.streams)


def test_an_edge_that_detaches_leaves_its_teacher_alone() -> None:
    teacher, student = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    for detach in (True, False):
        teacher.grad = student.grad = None
        DistillationGraph("a -> b", temperature=2.0, detach=detach)({"a": teacher, "b": student}).backward()
        assert student.grad is not None
        assert (teacher.grad is None) is detach


def test_the_teacher_ensemble_passes_no_gradient_when_detached() -> None:
    logits = {name: torch.randn(4, 6, requires_grad=True) for name in ("a", "b")}
    DistillationGraph("ensemble -> a", detach=True)(logits).backward()
    assert logits["a"].grad is not None
    assert logits["b"].grad is None


def test_student_gradient_is_the_same_for_ce_and_kl_and_kl_of_equals_is_zero() -> None:
    teacher = torch.randn(4, 6, dtype=torch.float64)
    gradients = []
    for loss in ("ce", "kl"):
        student = (0.5 * teacher).clone().requires_grad_()
        DistillationGraph("a -> b", temperature=0.7, loss=loss)({"a": teacher, "b": student}).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients)
    assert abs(DistillationGraph("a -> b", loss="kl")({"a": teacher, "b": teacher.clone()}).item()) < 1e-12


def test_an_empty_graph_costs_exactly_nothing() -> None:
    assert DistillationGraph()({"a": torch.randn(3, 4)}).item() == 0.0


def test_multiplicity_equals_repeating_the_candidate() -> None:
    logits = {name: torch.randn(5, 4, dtype=torch.float64) for name in ("a", "b")}
    counts = torch.tensor([1, 3, 1, 2])
    repeated = {name: z.repeat_interleave(counts, dim=1) for name, z in logits.items()}
    for loss in ("ce", "kl", "kl(standardize=True)"):
        graph = DistillationGraph("a -> b", "ensemble -> a", temperature=0.3, loss=loss)
        ours = graph(logits, counts.double().log().expand(5, 4))
        torch.testing.assert_close(ours, graph(repeated))


def test_ensemble_skips_an_ensemble_already_there() -> None:
    logits = {"a": torch.ones(1, 2), "b": torch.zeros(1, 2)}
    torch.testing.assert_close(ensemble({**logits, "ensemble": torch.full((1, 2), 9.0)}), ensemble(logits))


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        ("id > text", "not of the form"),
        ("id -> text -> image", "not of the form"),
        ("id -> ensemble", "cannot be taught"),
        ("id -> id", "by itself"),
        ("id -> txt", "'txt', but the streams are: id, text, image, ensemble"),
    ],
)
def test_a_wrong_edge_is_refused_by_name(features: ItemFeatures, edge: str, words: str) -> None:
    for made in (DistillationGraph, str):
        with pytest.raises(ValueError, match=words):
            make_model(features, distill=made(edge))


def test_edges_may_be_given_as_they_are_written(features: ItemFeatures) -> None:
    for distill in ("id <-> text", ["id -> text", "text -> id"], DistillationGraph("id <-> text")):
        edges = make_model(features, distill=distill).distill.edges
        assert [str(edge) for edge in edges] == ["id -> text", "text -> id"]
    assert not make_model(features).distill.edges


def test_wrong_arguments_are_refused_with_both_values(features: ItemFeatures) -> None:
    with pytest.raises(ValueError, match="'audio' has no features; there are: id, text, image"):
        make_model(features, streams=("id", "audio"))
    with pytest.raises(ValueError, match="dim=8 is not divisible by heads=3"):
        make_model(features, fusion="imt(heads=3)")
    with pytest.raises(ValueError, match="7 entries, but 20 items need 21"):
        make_model(features, item_counts=np.ones(7))
    model = make_model(features)
    with pytest.raises(ValueError, match="history of 9 events is longer than SASRec's length=6"):
        model.score(torch.ones(1, 9, dtype=torch.long), model.encode_catalogue())
    with pytest.raises(ValueError, match="backbone of 'id' is a function, not a torch module"):
        make_model(features, backbone=lambda: lambda x, mask: x)
    with pytest.raises(ValueError, match="every stream needs its own; pass what makes one"):
        make_model(features, backbone=SASRec(8, length=6))
    one = SASRec(8, length=6)
    with pytest.raises(ValueError, match="returned the same module twice"):
        make_model(features, backbone=lambda: one)
    with pytest.raises(ValueError, match="sasrec: dim is shared by all components"):
        make_model(features, backbone="sasrec(dim=4)")
    with pytest.raises(ValueError, match="is out of range; it is finite and above 0"):
        make_model(features, similarity="cosine(scale=0.0)")
    with pytest.raises(ValueError, match="id_init='text', but 'id' is not among the streams text"):
        make_model(features, streams=("text",), id_init="text")


def test_a_fusion_that_is_no_module_is_refused(features: ItemFeatures) -> None:
    class Loose:
        streams = ("id",)

        def __call__(self, tokens: Streams, masks: Streams) -> Streams:
            return {"id": tokens["id"][:, 0]}

    with pytest.raises(ValueError, match="fusion is a Loose, not a torch module"):
        make_model(features, fusion=Loose())


def test_asking_for_scores_leaves_every_submodule_as_it_was(features: ItemFeatures) -> None:
    model = make_model(features).train()
    model.fusion.eval()  # frozen by its user
    model.encode_catalogue()
    assert model.training
    assert not model.fusion.training
    model.backbones["id"].train()
    with pytest.raises(ValueError, match="longer than SASRec's length"):
        model.score(torch.ones(1, 9, dtype=torch.long), model.encode_catalogue())
    assert model.backbones["id"].training


def test_every_stream_scores_by_cosines_if_told(features: ItemFeatures) -> None:
    model = make_model(features, similarity="cosine(scale=9.0)", join="sum(at='user', keep=True)").eval()
    histories, tables = torch.from_numpy(HISTORIES), model.encode_catalogue()
    for stream, scores in model.score(histories, tables).items():
        states = model.states(histories, tables)[stream]
        torch.testing.assert_close(states.norm(dim=-1), torch.full((len(histories),), 3.0))
        torch.testing.assert_close(tables[stream][1:].norm(dim=-1), torch.full((NUM_ITEMS,), 3.0))
        torch.testing.assert_close(
            scores[:, 1:], 9 * torch.cosine_similarity(states[:, None], tables[stream][None, 1:], -1)
        )


def test_no_gradient_of_a_cosine_breaks_at_zero() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    Cosine(scale=16.0)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
