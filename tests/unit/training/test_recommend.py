"""What a trained model recommends, in the vendor's ids, from Python and as a command."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from odmt import Recommender
from odmt.data.format import Dataset
from odmt.pretrained import from_pretrained
from odmt.recommend import main
from odmt.training import run
from tests.documents import DOCUMENTS
from tests.tiny import tiny_dataset
from tests.unit.training.tiny_runs import experiment


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def trained(opened: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(experiment(opened.path, tmp_path_factory.mktemp("runs"), "--train.epochs=2", "--model.ensemble=fitted"))


@pytest.fixture(scope="module")
def recommender(trained: Path) -> Recommender:
    return Recommender.load(trained)


def test_users_get_the_best_items_that_they_have_not_had(
    recommender: Recommender, opened: Dataset, trained: Path
) -> None:
    model = from_pretrained(trained, opened.path)
    tables = model.encode_catalogue()
    for user, best in recommender.users(["u3", "u0"], k=5):
        history = opened.history(int(user[1:]))
        newest = torch.zeros(1, model.length, dtype=torch.long)
        newest[0, -len(history) :] = torch.from_numpy(history[-model.length :].astype("int64"))
        scores = model.ensemble(model.score(newest, tables))[0]
        scores[[0, *history]] = -torch.inf
        values, items = scores.topk(5)
        assert [item for item, _ in best] == [opened.ids()[item - 1] for item in items.tolist()]
        assert [score for _, score in best] == pytest.approx(values.tolist(), rel=1e-5)


def test_all_users_come_in_order_and_histories_may_be_of_nobody_known(
    recommender: Recommender, opened: Dataset
) -> None:
    found = dict(recommender.users(k=3))
    assert list(found) == opened.users()
    assert all(len(best) == 3 for best in found.values())
    history = [opened.ids()[item - 1] for item in opened.history(7)]
    (theirs,) = recommender.histories([history], k=3)
    assert [item for item, _ in theirs] == [item for item, _ in found["u7"]]
    assert [score for _, score in theirs] == pytest.approx([score for _, score in found["u7"]])


def test_what_was_seen_may_come_again_where_that_is_asked_for(recommender: Recommender, opened: Dataset) -> None:
    num_items = len(opened.ids())
    history = opened.ids()[:-2]
    (new,) = recommender.histories([history], k=num_items)
    assert sorted(item for item, _ in new) == sorted(opened.ids()[-2:])
    (every,) = recommender.histories([history], k=num_items, seen=True)
    assert sorted(item for item, _ in every) == sorted(opened.ids())


def test_one_head_may_rank_by_itself(opened: Dataset, trained: Path) -> None:
    model = from_pretrained(trained, opened)
    (best,) = Recommender(model, opened, head="text").histories([["i3"]], k=4)
    scores = model.score(torch.tensor([[4]]), model.encode_catalogue())["text"][0]
    scores[[0, 4]] = -torch.inf
    first = scores.sort(descending=True, stable=True).indices[:4]  # of equal scores the smaller number
    assert [item for item, _ in best] == [opened.ids()[item - 1] for item in first.tolist()]
    with pytest.raises(ValueError, match="no head 'image'; there are: id, text, ensemble"):
        Recommender(model, opened, head="image")


def test_the_readmes_code_recommends(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python recommend\n(.*?)```", DOCUMENTS["README.md"], flags=re.DOTALL)
    for name, ours in {"runs/microlens-microlens-cpu+odmt-s1": str(trained), "12": "u1", "973": "u2"}.items():
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', f'"{ours}"')
    exec(code.replace("4091", "i1").replace('"77"', '"i2"'))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["u1", "u2"]


def test_who_and_what_is_not_there_is_named(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match=r"no user 'u600'; did you mean 'u60?'\?"):
        list(recommender.users(["u600"]))
    with pytest.raises(ValueError, match="no item 'hat' in the dataset"):
        recommender.histories([["i1", "hat"]])
    with pytest.raises(ValueError, match="history 1 is empty"):
        recommender.histories([["i1"], []])
    with pytest.raises(ValueError, match="k is 25; there are 24 items"):
        recommender.histories([["i1"]], k=25)


def test_a_run_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model; name a run that is finished"):
        Recommender.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no model; the run is not finished"):
        Recommender.load(tmp_path)


def test_the_command_writes_a_table_of_all_users(
    trained: Path, opened: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "recommendations.csv"
    assert main([str(trained), "--k", "2", "--out", str(out)]) == 0
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["user"] for row in rows[::2]] == opened.users()
    assert [row["rank"] for row in rows[:2]] == ["1", "2"]
    capsys.readouterr()
    assert main([str(trained), "--k", "2", "--user", "u5"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "user,rank,item,score"
    assert printed[1:] == [",".join(row.values()) for row in rows if row["user"] == "u5"]
    assert main([str(trained), "--user", "u5", "nobody", "--out", str(tmp_path / "none.csv")]) == 1
    assert "error: there is no user 'nobody'" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()
