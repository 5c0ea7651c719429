"""The command line of the adapters: its help, its mistakes, and what it tells."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from data_adapters.__main__ import VENDORS, main
from odmt.data.format import open_dataset
from tests.unit.adapters.toy import START, write_events


def test_help_shows_the_layout_of_every_vendor(capsys: pytest.CaptureFixture[str]) -> None:
    for name in VENDORS:
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        shown = capsys.readouterr().out
        layout = importlib.import_module(f"data_adapters.{name.replace('-', '_')}").ADAPTER.layout
        assert layout.strip() in shown
        for option in ("--raw", "--out", "--min-events", "--k-core", "--repeats", "--text", "--pack", "--memory"):
            assert option in shown


def test_the_list_of_commands_and_an_unknown_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"    {name}" in shown for name in (*VENDORS, "sample", "check"))
    for argv in (["movielense"], []):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "invalid choice: 'movielense'" in capsys.readouterr().err


def test_the_command_tells_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_events(
        tmp_path / "raw/e.csv", [(u, f"i{n}", START + n, n) for u in "ab" for n in range(6)] + [("c", "i1", START, 1)]
    )
    argv = ["table", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'out'}: 2 users, 6 items, 12 interactions" in shown
    assert "  times: s, whole seconds" in shown
    assert "left out: 1 users with fewer than 5 events" in shown
    assert "left out: 1 events of those users" in shown
    assert "nothing to do" not in shown
    assert main(argv) == 0
    assert "nothing to do: it was made from the same files with the same options" in capsys.readouterr().out
    assert main([*argv, "--k-core", "2"]) == 1
    assert "error: " in (shown := capsys.readouterr().err)
    assert "k_core was '1', now '2'" in shown
    assert open_dataset(tmp_path / "out").info.made_by.startswith("python -m data_adapters table --raw")
