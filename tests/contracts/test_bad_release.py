"""A vendor's file that is wrong: the answer names file, line and field, the way out, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_adapters.__main__ import main

PAIRS = "user,item,timestamp\n" + "".join(f"1,{item},158337862900{item}\n" for item in range(1, 7))
TITLES = "item,title\n" + "".join(f'{item},"title, {item}"\n' for item in range(1, 7))
P, T = "MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"
TSV = "MicroLens-50k_pairs.tsv"

BAD: dict[str, tuple[dict[str, str | bytes | None], tuple[str, ...]]] = {
    "no pairs": ({P: None}, ("no file named *pairs.csv or *pairs.tsv", T, "github.com/westlake-repl/MicroLens")),
    "no titles": ({T: None}, ("no file named *title*.csv", P)),
    "two releases": ({"MicroLens-1M_pairs.csv": PAIRS}, ("several releases", "one per folder")),
    "csv with semicolons": ({P: PAIRS.replace(",", ";")}, (P, "line 1", "1 comma-separated fields")),
    "csv with tabs": ({P: PAIRS.replace(",", "\t")}, (P, "line 1", "rewritten with commas")),
    "csv line cut": ({P: PAIRS + "1,9\n"}, (P, "line 8", "2 fields", "'1,9'")),
    "csv text item": ({P: PAIRS + "1,abc,1583378629009\n"}, (P, "line 8", "item is 'abc'")),
    "csv seconds": ({P: "1,2,1583378629\n"}, (P, "line 1", "time is '1583378629'", "looks like seconds")),
    "csv header only": ({P: "user,item,timestamp\n"}, (P, "no events")),
    "tsv with spaces": ({P: None, TSV: "1 2 3 4 5 6 7\n"}, (TSV, "line 1", "0 tabs", "rewritten with tabs")),
    "tsv all tabs": ({P: None, TSV: "1\t2\t3\t4\t5\n"}, (TSV, "line 1", "4 tabs")),
    "tsv with commas": ({P: None, TSV: "1\t2,3,4,5,6\n"}, (TSV, "line 1", "item is '2,3,4,5,6'")),
    "tsv user twice": ({P: None, TSV: "1\t2 3 4 5 6\n1\t2\n"}, (TSV, "line 2", "user 1 was on line 1")),
    "empty pairs": ({P: ""}, (P, "empty (0 bytes)")),
    "blank pairs": ({P: "\n\n"}, (P, "empty (2 bytes)")),
    "empty titles": ({T: ""}, (T, "empty (0 bytes)")),
    "pairs not utf-8": ({P: PAIRS.encode() + b"1,\xe9,3\n"}, (P, "line 8, byte 3", "0xe9 is not UTF-8")),
    "titles not utf-8": ({T: "item,title\n1,ol\u00e9".encode("latin-1")}, (T, "line 2, byte 5", "0xe9 is not UTF-8")),
    "titles utf-16": ({T: TITLES.encode("utf-16")}, (T, "line 1, byte 1", "is not UTF-8")),
    "quote not closed": ({T: TITLES + '7,"open\n8,next\n'}, (T, "line 8", "broken quotes")),
    "quote not doubled": ({T: TITLES + '7,"say "hi" now"\n'}, (T, "line 8", "broken quotes", 'as ""')),
    "title not quoted": ({T: TITLES + "7,one, two\n"}, (T, "line 8", "3 fields", "quote titles that hold commas")),
    "titles with tabs": ({T: TITLES.replace(",", "\t")}, (T, "line 1", "item,title")),
    "plain titles with tabs": ({T: "1\tone\n2\ttwo\n"}, (T, "line 1")),
    "title of text id": ({T: TITLES + "abc,x\n"}, (T, "line 8", "item is 'abc'")),
    "all users short": ({P: PAIRS.replace("1,6,", "2,6,").replace("1,5,", "2,5,")}, (P, "none of its 2 users has 5")),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_release(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, answers = BAD[name]
    raw = tmp_path / "raw"
    raw.mkdir()
    for file, content in ({P: PAIRS, T: TITLES} | changes).items():
        if content is not None:
            (raw / file).write_bytes(content.encode() if isinstance(content, str) else content)
    assert main(["microlens", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert str(raw) in printed
    for answer in answers:
        assert answer in printed
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_no_raw_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["microlens", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert f"no folder at {tmp_path / 'raw'}" in printed
    assert "_pairs.tsv" in printed


def test_unbalanced_quotes_are_legal_where_titles_have_no_header(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / P).write_text(PAIRS)
    (raw / "MicroLens-100k_title_en.csv").write_text('1, an "open quote\n2,another, "one\n')
    assert main(["microlens", "--raw", str(raw), "--out", str(tmp_path / "out")]) == 0


def test_help_shows_the_layout_and_where_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["microlens", "--help"])
    printed = capsys.readouterr().out
    assert "https://github.com/westlake-repl/MicroLens" in printed
    assert "*covers*/ITEM.jpg" in printed
