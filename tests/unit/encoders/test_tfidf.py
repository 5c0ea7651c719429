"""TF-IDF: the same every time, like texts together, any script, and too few words are refused."""

from __future__ import annotations

import numpy as np
import pytest

from odmt.encoders import EncoderError
from odmt.encoders.text import Tfidf
from tests.unit.encoders.test_text import WORDS
from tests.unit.encoders.tokens import arrays


def test_tfidf_is_the_same_every_time() -> None:
    catalogue = [f"{a} {b} {c}" for a in WORDS[:6] for b in WORDS[6:10] for c in WORDS[3:12:4]]
    first, second = (Tfidf(dim=8) for _ in range(2))
    first.fit(catalogue)
    second.fit(catalogue)
    ours = arrays(first, catalogue)
    np.testing.assert_array_equal(ours, arrays(second, catalogue))
    assert ours[0].shape == (1, 8)
    np.testing.assert_allclose(np.square(np.stack(ours)).mean(axis=-1), 1, rtol=1e-6)


def test_tfidf_puts_like_texts_together() -> None:
    cats = ["cat dog mat", "cat mat rug", "dog rug mat", "cat dog rug"]
    money = ["stock market falls", "market rises", "stock falls rises", "stock market rises"]
    encoder = Tfidf(dim=2)
    encoder.fit(cats + money)
    rows = np.concatenate(arrays(encoder, cats + money)) / np.sqrt(2)
    alike = rows @ rows.T
    assert alike[:4, :4].min() > 0.9
    assert alike[4:, 4:].min() > 0.9
    assert alike[:4, 4:].max() < 0.1


def test_tfidf_has_nothing_to_say_of_unknown_words() -> None:
    encoder = Tfidf(dim=2)
    encoder.fit(["cat dog", "dog mat", "mat cat"])
    assert [len(tokens) for tokens in arrays(encoder, ["!!!", "dog", "zebra"])] == [0, 1, 0]


def test_tfidf_reads_any_script() -> None:
    encoder = Tfidf(dim=3)
    texts = ["猫 狗", "собака кот", "猫 鱼", "рыба кот", "😀 cat"]
    encoder.fit(texts)
    assert [len(tokens) for tokens in arrays(encoder, texts)] == [1, 1, 1, 1, 1]


def test_tfidf_says_what_is_too_little() -> None:
    with pytest.raises(EncoderError, match=r"there are 3 texts with 4 different words; ask for tfidf\(dim=3\)"):
        Tfidf(dim=64).fit(["cat dog", "cat mat", "rug"])
    with pytest.raises(EncoderError, match="no text holds a word"):
        Tfidf(dim=2).fit(["!!", "??"])
