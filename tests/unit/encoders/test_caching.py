"""The command and its cache: killed and resumed, a full disk, skipped, missing and broken content, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from odmt.data.features import FeatureError, open_features
from odmt.data.format import Dataset
from odmt.encoders import EncoderError, load_encoder
from odmt.encoders.__main__ import main
from odmt.encoders.caching import encode_modality
from tests.unit.encoders.conftest import FolderMaker
from tests.unit.encoders.tiny import Words

WORDS = "tests.unit.encoders.tiny:Words"
TEXTS = [None if i % 9 == 4 else " ".join(f"word{i * j % 17}" for j in range(i % 5 + 1)) for i in range(40)]


def command(dataset: Dataset, encoder: str = WORDS) -> list[str]:
    return [str(dataset.path), "--modality", "text", "--encoder", encoder, "--batch-size", "4"]


def run_apart(arguments: list[str], repository: Path, *, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, after the statement `before`."""
    script = f"import sys\n{before}\nfrom odmt.encoders.__main__ import main\nsys.exit(main({arguments!r}))"
    environment = {**os.environ, "ODMT_CHECK_SHAPES": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=repository, env=environment, capture_output=True, text=True, check=False
    )


def files(dataset: Dataset) -> dict[str, bytes]:
    root = dataset.path / "features"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_killed_and_resumed_equals_uninterrupted(
    make_folder: FolderMaker, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, killed = make_folder("whole", text=TEXTS), make_folder("killed", text=TEXTS)
    assert main(command(whole)) == 0

    for die_at in (3, 2):
        assert run_apart(command(killed, f"{WORDS}(die_at={die_at})"), repository).returncode == -signal.SIGKILL
        with pytest.raises(FeatureError, match="unfinished"):
            open_features(killed, ["text"])
    capsys.readouterr()
    assert main(command(killed)) == 0

    assert "12/36" in capsys.readouterr().err  # three batches were kept
    assert files(killed) == files(whole)


def test_a_full_disk_leaves_nothing_to_read_and_is_made_good(make_folder: FolderMaker, repository: Path) -> None:
    whole, full = make_folder("whole", text=TEXTS), make_folder("full", text=TEXTS)
    assert main(command(whole)) == 0
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))"

    failed = run_apart(command(full), repository, before=limit)

    assert failed.returncode == 2
    assert "cannot write (File too large)" in failed.stderr
    assert "make room" in failed.stderr
    assert "Traceback" not in failed.stderr
    with pytest.raises(FeatureError, match="unfinished"):
        open_features(full, ["text"])
    assert main(command(full)) == 0
    assert files(full) == files(whole)


def test_items_without_content_and_broken_ones_lack_the_modality(
    make_folder: FolderMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = make_folder(text=["one two", None, "  ", "this is unreadable", "three"])
    assert main([str(dataset.path), "--modality", "text", "--encoder", WORDS]) == 0
    tokens = open_features(dataset, ["text"]).gather("text", range(6))
    assert tokens.mask.sum(dim=1).tolist() == [0, 2, 0, 0, 0, 1]
    out = capsys.readouterr().out
    assert "2 of 5 items have 3 tokens; 2 have no content, 1 could not be read" in out
    assert "item raw-4: the word 'unreadable' occurs in 'this is unreadable'" in out
    expected = Words().encode(["one two"])[0]
    assert isinstance(expected, np.ndarray)
    np.testing.assert_allclose(tokens.values[1].numpy(), expected, atol=2e-3)


def test_pooled_features_hold_the_mean_of_all_tokens_beside_the_tokens_themselves(make_folder: FolderMaker) -> None:
    dataset = make_folder(text=["one two", None, "this is unreadable", "three"])
    arguments = [str(dataset.path), "--modality", "text", "--encoder", WORDS]
    assert main(arguments) == 0
    whole = open_features(dataset, ["text"]).gather("text", range(5))
    assert main([*arguments, "--pool", "mean"]) == 0
    pooled = open_features(dataset, ["text"], select={"text": "mean of words"}).gather("text", range(5))
    assert pooled.mask.tolist() == whole.mask[:, :1].tolist()
    np.testing.assert_allclose(pooled.values[1, 0].numpy(), whole.values[1].float().mean(0).numpy(), atol=2e-3)
    np.testing.assert_array_equal(pooled.values[4, 0].numpy(), whole.values[4, 0].numpy())


def test_an_encoder_that_learns_from_the_catalogue_does_so_when_it_is_pooled(make_folder: FolderMaker) -> None:
    dataset = make_folder(text=["one two", "two three", "three one", "one"])
    found = []
    for pool, choice in (([], {}), (["--pool", "mean"], {"text": "mean of tfidf"})):
        assert main([str(dataset.path), "--modality", "text", "--encoder", "tfidf(dim=2)", *pool]) == 0
        found.append(open_features(dataset, ["text"], select=choice).gather("text", range(5)).values.numpy())
    np.testing.assert_array_equal(found[1], found[0])


def test_present_features_are_skipped(make_folder: FolderMaker, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = make_folder(text=TEXTS)
    assert main(command(dataset)) == 0
    before = files(dataset)
    capsys.readouterr()
    assert main(command(dataset)) == 0
    assert "there already, skipped" in capsys.readouterr().out
    assert files(dataset) == before


def test_a_damaged_cache_is_not_skipped_over(make_folder: FolderMaker) -> None:
    dataset = make_folder(text=TEXTS)
    folder = encode_modality(dataset, "text", Words(), batch_size=8, progress=False).folder
    (folder / "tokens.npy").write_bytes(b"")
    with pytest.raises(FeatureError, match="damaged"):
        encode_modality(dataset, "text", Words(), batch_size=8, progress=False)


def test_other_settings_and_other_content_have_other_keys(make_folder: FolderMaker) -> None:
    first, second = make_folder("first", text=TEXTS), make_folder("second", text=TEXTS[::-1])
    folders = [
        encode_modality(dataset, "text", Words(scale=scale), batch_size=8, progress=False).folder
        for dataset, scale in ((first, 1.0), (first, 2.0), (second, 1.0))
    ]
    assert len({folder.name for folder in folders}) == 3


def test_the_key_does_not_depend_on_the_place_or_the_batch_size(make_folder: FolderMaker) -> None:
    one, two = make_folder("one", text=TEXTS), make_folder("two", text=TEXTS)
    first = encode_modality(one, "text", Words(), batch_size=8, progress=False).folder
    second = encode_modality(two, "text", Words(), batch_size=3, progress=False).folder
    assert first.name == second.name
    a, b = open_features(one, ["text"]), open_features(two, ["text"])
    assert (a.gather("text", range(41)).values == b.gather("text", range(41)).values).all()
    assert str(one.path) not in (first / "recipe.yaml").read_text()


def test_the_recipe_tells_what_was_done(make_folder: FolderMaker) -> None:
    folder = encode_modality(make_folder(text=TEXTS), "text", Words(), batch_size=8, progress=False).folder
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["settings"] == {"method": "words", "scale": 1.0}
    assert (recipe["items"], recipe["items_with_tokens"], recipe["items_without_content"]) == (40, 36, 4)
    assert recipe["versions"].keys() >= {"odmt", "torch"}
    assert recipe["done"] is True
    assert "falling length" in recipe["order"]


def test_content_that_is_not_there_is_named(make_folder: FolderMaker) -> None:
    with pytest.raises(ValueError, match="no modality 'image'"):
        encode_modality(make_folder("a", text=TEXTS), "image", Words(), batch_size=8, progress=False)
    with pytest.raises(EncoderError, match=r"no item of .* has any text"):
        encode_modality(make_folder("b", text=[None] * 5), "text", Words(), batch_size=8, progress=False)


@pytest.mark.parametrize(
    ("modality", "name", "options", "message"),
    [
        ("audio", "anything", {}, "no 'audio' encoders yet; there are encoders for text, image, video"),
        ("text", "tfdif(dim=3)", {}, "unknown text encoder 'tfdif'; did you mean 'tfidf'"),
        ("image", "histograms", {}, "unknown image encoder 'histograms'; did you mean 'histogram'"),
        ("text", "tfidf(dims=3)", {}, "tfidf takes no argument 'dims'; did you mean 'dim'"),
        ("text", "tfidf", {"layer": -2}, "tfidf takes no argument 'layer'"),
        ("text", "model(layer=-3)", {"layer": -2}, "layer is given twice"),
        ("text", "tfidf(dim=0)", {}, "dim must be at least 1"),
    ],
)
def test_wrong_encoders_are_answered(modality: str, name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_encoder(modality, name, **options)


def test_the_command_answers_without_a_traceback(make_folder: FolderMaker, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(make_folder(text=TEXTS).path)
    for arguments in (
        [folder, "--modality", "text", "--encoder", "tfidf(dim=5000)"],
        [folder, "--modality", "audio", "--encoder", "x"],
        [folder, "--modality", "text", "--encoder", WORDS, "--batch-size", "0"],
        [folder, "--modality", "text", "--encoder", WORDS, "--layer", "3"],
        [folder + "-missing", "--modality", "text", "--encoder", WORDS],
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_help_says_which_encoders_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    for word in ("tfidf(dim=64)", "histogram(bins=8)", "timm", "transformers", "--max-tokens", "--bf16"):
        assert word in out
