"""What a trained model recommends, in the vendor's ids, from Python and as a command."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
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


MISTAKES = """
import sys
from odmt import Recommender

recommender = Recommender.load(sys.argv[1], device="cpu")
for mistake in sys.argv[2:]:
    try:
        list(eval("recommender." + mistake))
    except ValueError as error:
        print(error)
"""


def test_what_is_of_the_wrong_type_is_told(trained: Path) -> None:
    answers = {
        "histories([['i1']], k='3')": "k is '3', and not a whole number; write k=10",
        "histories([['i1']], k=3.5)": "k is 3.5, and not a whole number; write k=10",
        "users(['u0'], k=True)": "k is True, and not a whole number; write k=10",
        "users('u0')": "users is 'u0'; pass a list: ['u0']",
        "users(12)": "users is 12; pass a list: ['12']",
        "histories('i1')": "histories is 'i1'; pass a list: [['i1']]",
        "histories([['i1'], 'i2'])": "history 1 is 'i2'; pass a list: ['i2']",
    }
    command = [sys.executable, "-c", MISTAKES, str(trained), *answers]
    unchecked = {**os.environ, "ODMT_CHECK_SHAPES": "0"}  # beartype would be first
    told = subprocess.run(command, env=unchecked, capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == list(answers.values())


def test_a_dataset_may_be_named_as_in_training(
    trained: Path, opened: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/later").symlink_to(opened.path)
    assert Recommender.load(trained, "later").ids == opened.ids()
    with pytest.raises(ValueError, match=r"no dataset folder at data/latr; did you mean 'later'\?"):
        Recommender.load(trained, "latr")


def test_a_checkpoint_is_told_how_to_become_a_model(trained: Path) -> None:
    step = next((trained / "checkpoints").glob("step-*"))
    for checkpoint in (step, next((trained / "checkpoints").glob("best-*"))):
        with pytest.raises(ValueError) as error:
            Recommender.load(checkpoint)
        way_out = f"make a model of it: python -m odmt.consolidate {checkpoint} FOLDER"
        assert str(error.value) == f"{checkpoint} is a checkpoint, and not a model; {way_out}, and name that folder"


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


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:99"])
def test_a_device_that_is_not_there_is_told(device: str, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained), "--user", "u5", "--device", device]) == 1
    assert f"error: --device {device} cannot be used here: " in capsys.readouterr().err


def test_where_nothing_can_be_written_is_told_before_the_work(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recommender, "load", None)  # is not reached
    assert main([str(trained), "--out", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    assert told == f"error: --out {tmp_path} is a folder; name a file, such as {tmp_path}/recommendations.csv\n"
    (tmp_path / "file").touch()
    assert main([str(trained), "--out", str(tmp_path / "file" / "x.csv")]) == 1
    assert f"error: --out {tmp_path}/file/x.csv cannot be written (" in capsys.readouterr().err


def test_an_interruption_leaves_a_line_and_the_file_as_it_was(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out.csv"
    out.write_text("before")
    monkeypatch.setattr("odmt.recommend._padded", interrupt)
    assert main([str(trained), "--out", str(out)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted; {out} was not written"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]
    assert out.read_text() == "before"
    assert main([str(trained)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_a_reader_that_has_enough_ends_it_quietly(trained: Path) -> None:
    command = [sys.executable, "-m", "odmt.recommend", str(trained), "--user", "u5"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.close()
    _, told = child.communicate()
    assert child.returncode == 141
    assert "Traceback" not in told
    assert "roken pipe" not in told
