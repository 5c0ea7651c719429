"""The generated sample: the same seed gives the same bytes, and its planted structure makes content pay."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data_adapters.__main__ import main
from data_adapters.sample import Release, generate, plan
from data_adapters.sample_content import STYLES, TOPICS
from data_adapters.text_files import ReleaseError
from odmt.data.format import Dataset, open_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("sample")
    generate(folder / "raw")
    assert main(["microlens", "--raw", str(folder / "raw"), "--out", str(folder / "sample")]) == 0
    return open_dataset(folder / "sample")


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, seed=seed, users=20, items=60)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_has_the_size_and_gaps_that_were_asked_for(dataset: Dataset) -> None:
    lengths = np.diff(dataset.offsets)
    assert dataset.num_users == 1000
    assert 490 <= dataset.num_items <= 500
    assert lengths.min() == 5
    assert lengths.max() <= 30
    assert 8 < lengths.mean() < 10
    lacking = {m: dataset.num_items - count for m, count in dataset.info.modalities.items()}
    assert all(5 <= lacking[m] <= 80 for m in ("text", "image", "video")), lacking
    assert [int(i) for i in dataset.ids()] != list(range(1, dataset.num_items + 1))
    assert dataset.times is not None
    assert dataset.times.min() > 1_500_000_000_000
    assert all(len(set(dataset.history(user).tolist())) == lengths[user] for user in range(dataset.num_users))


def test_titles_hold_what_makes_them_hard_to_read(dataset: Dataset) -> None:
    titles = "\n".join(text for text in dataset.texts() if text)
    assert all(mark in titles for mark in (",", '"', "#", "😂"))
    assert len(set(titles.split("\n"))) > 400


def test_covers_and_clips_decode_and_show_their_topic(dataset: Dataset) -> None:
    covers = [path for path in dataset.media("image") if path]
    with Image.open(covers[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 64))
    clips = [path for path in dataset.media("video") if path]
    with av.open(str(clips[0])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 9
    assert frames[0].shape == (64, 64, 3)
    assert any(np.abs(a.astype(int) - b).max() > 40 for a, b in itertools.pairwise(frames))


def hit_rate(release: Release, score) -> float:
    """Return HR@10 of `score(history)` [items] on every user's last event, what was watched before left out."""
    histories = np.split(release.events[:, 1], np.flatnonzero(np.diff(release.events[:, 0])) + 1)
    hits = []
    for history in histories:
        scores = np.array(score(history), float)
        scores[history[:-1]] = -np.inf
        target = scores[history[-1]]
        hits.append((scores > target).sum() + ((scores == target).sum() - 1) / 2 < 10)
    return float(np.mean(hits))


def test_content_tells_what_counting_ids_cannot() -> None:
    release = plan(0, users=1000, items=500)
    histories = np.split(release.events[:, 1], np.flatnonzero(np.diff(release.events[:, 0])) + 1)
    popularity = np.bincount(np.concatenate([h[:-2] for h in histories]), minlength=len(release.ids))
    follows = np.zeros((len(release.ids), len(release.ids)))
    for history in histories:
        np.add.at(follows, (history[:-3], history[1:-2]), 1)

    def by_content(history: np.ndarray) -> np.ndarray:
        topic = release.topic_steps[release.topics[history[-2]], release.topics]
        return topic * release.style_steps[release.styles[history[-2]], release.styles]

    popular = hit_rate(release, lambda history: popularity)
    markov = hit_rate(release, lambda history: follows[history[-2]] + 1e-6 * popularity)
    content = hit_rate(release, by_content)
    assert popular <= 0.08
    assert markov + 0.15 < content
    assert content >= 0.35
    assert np.allclose(release.topic_steps.sum(1), 1)
    assert release.topic_steps.shape == (len(TOPICS),) * 2
    assert np.allclose(release.style_steps.sum(1), 1)
    assert release.style_steps.shape == (len(STYLES),) * 2


def test_refuses_to_overwrite_and_too_small_a_sample(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"--users 5 --items 60: .* at least 10 users and 50 items"):
        generate(tmp_path / "raw", users=5, items=60)
    generate(tmp_path / "raw", users=10, items=50)
    with pytest.raises(ReleaseError, match="exists; name another folder"):
        generate(tmp_path / "raw", users=10, items=50)
    generate(tmp_path / "raw", users=12, items=50, overwrite=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years")
    with pytest.raises(ReleaseError, match="holds no generated sample"):
        generate(tmp_path / "home", users=10, items=50, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "raw"]


def test_a_small_sample_goes_through_the_adapter(tmp_path: Path) -> None:
    generate(tmp_path / "raw", users=12, items=50)
    assert main(["microlens", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "small")]) == 0
    assert open_dataset(tmp_path / "small").num_users == 12
