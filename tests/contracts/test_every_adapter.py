"""What every adapter owes its users: the same data whatever the line ends, marks, packing and order of rows; and file,
line and nothing left behind where a line is wrong."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from data_adapters.__main__ import main
from odmt.data.format import Dataset, open_dataset

START = 1_600_000_000
DAY = 86_400
USERS, ITEMS = 4, 7
ARTICLES = (
    "article_id,product_code,prod_name,product_type_no,product_type_name,product_group_name,"
    "graphical_appearance_no,graphical_appearance_name,colour_group_code,colour_group_name,"
    "perceived_colour_value_id,perceived_colour_value_name,perceived_colour_master_id,"
    "perceived_colour_master_name,department_no,department_name,index_code,index_name,index_group_no,"
    "index_group_name,section_no,section_name,garment_group_no,garment_group_name,detail_desc"
)
INFORMATION = (
    "item_id,view_number,comment_number,thumbup_number,share_number,coin_number,favorite_number,barrage_number,"
    "title,tag,description"
)


@dataclass(frozen=True)
class Layout:
    """The event file of a vendor, line by line, and what else its release needs."""

    file: str
    row: Callable[[int, int, int], str]
    """The line of user, item and the number of the event, which is its day."""
    header: str = ""
    others: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[str] = ()
    gzipped: bool = True


def date(event: int) -> str:
    return f"2020-09-{event + 1:02d}"


LAYOUTS = {
    "amazon": Layout("Luxury_Beauty.csv", lambda u, i, e: f"B00000000{i},A1USER000000{u},5.0,{START + e * DAY}",
                     options=["--year", "2018"]),
    "hm": Layout("transactions_train.csv", lambda u, i, e: f"{date(e)},{u:064x},010877501{i},0.05,2",
                 "t_dat,customer_id,article_id,price,sales_channel_id",
                 {"articles.csv": ARTICLES + "\n"
                  + "".join(f"010877501{i}{',x' * ARTICLES.count(',')}\n" for i in range(ITEMS))}),
    "kuairand": Layout("log_standard_4_08_to_4_21_pure.csv",
                       lambda u, i, e: f"{u},{i},20220408,700,{(START + e * DAY) * 1000},1",
                       "user_id,video_id,date,hourmin,time_ms,is_click"),
    "microlens": Layout("MicroLens-50k_pairs.csv", lambda u, i, e: f"{u},{i},{(START + e * DAY) * 1000}",
                        "user,item,timestamp",
                        {"MicroLens-50k_titles.csv": "item,title\n" + "".join(f"{i},t {i}\n" for i in range(ITEMS))},
                        gzipped=False),
    "mmrec": Layout("baby.inter", lambda u, i, e: f"{u}\t{i}\t5.0\t{START + e * DAY}\t0",
                    "userID\titemID\trating\ttimestamp\tx_label", gzipped=False),
    "movielens": Layout("ratings.csv", lambda u, i, e: f"{u},{i},4.5,{START + e * DAY}",
                        "userId,movieId,rating,timestamp",
                        {"movies.csv": "movieId,title,genres\n" + "".join(f"{i},t {i},Drama\n" for i in range(ITEMS))}),
    "ninerec": Layout("DY_pair.csv", lambda u, i, e: f"u{u},v{i},{START + e * DAY}", gzipped=False,
                      others={"DY_item.csv": "".join(f"v{i},z {i},e {i}\n" for i in range(ITEMS))}),
    "pixelrec": Layout("Pixel200K.csv", lambda u, i, e: f"i{i},u{u},{START + e * DAY}", "item_id,user_id,timestamp",
                       {"information.csv": f"{INFORMATION}\n"
                        + "".join(f"i{i},1,1,1,1,1,1,1,title,tag,text\n" for i in range(ITEMS))}, gzipped=False),
    "recbole": Layout("toy.inter", lambda u, i, e: f"{u}\t{i}\t{START + e * DAY}",
                      "user_id:token\titem_id:token\ttimestamp:float", gzipped=False),
    "table": Layout("log.csv", lambda u, i, e: f"{u},{i},{START + e * DAY}", "uid,iid,ts",
                    options=["--events", "log.csv", "--user", "uid", "--item", "iid", "--time", "ts"], gzipped=False),
}  # fmt: skip


def rows_of(layout: Layout) -> list[str]:
    return [layout.row(u, (u + 3 * e) % ITEMS, e) for u in range(USERS) for e in range(5)]


def release(folder: Path, layout: Layout, lines: Sequence[str], *, end: str = "\n", mark: str = "") -> Path:
    content = mark + end.join([*([layout.header] if layout.header else []), *lines]) + end
    for name, text in {**layout.others, layout.file: content}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder


def prepared(name: str, raw: Path, out: Path, *options: str) -> Dataset:
    assert main([name, "--raw", str(raw), "--out", str(out), *LAYOUTS[name].options, *options]) == 0
    return open_dataset(out)


@pytest.mark.parametrize("name", LAYOUTS)
def test_line_ends_marks_packing_and_order_of_rows_change_nothing(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    lines = rows_of(layout)
    plain = prepared(name, release(tmp_path / "plain", layout, lines), tmp_path / "out")
    assert (plain.num_users, plain.num_items, plain.num_interactions) == (USERS, ITEMS, 5 * USERS)
    shuffled = random.Random(0).sample(lines, len(lines))
    variants = {
        "crlf": release(tmp_path / "crlf", layout, lines, end="\r\n"),
        "mark": release(tmp_path / "mark", layout, lines, mark="\ufeff"),
        "shuffled": release(tmp_path / "shuffled", layout, shuffled),
    }
    if layout.gzipped:
        packed = release(tmp_path / "packed", layout, lines)
        (packed / f"{layout.file}.gz").write_bytes(gzip.compress((packed / layout.file).read_bytes()))
        (packed / layout.file).unlink()
        variants["packed"] = packed
    for kind, raw in variants.items():
        assert prepared(name, raw, tmp_path / f"out-{kind}").fingerprint == plain.fingerprint, kind


@pytest.mark.parametrize("name", LAYOUTS)
def test_equal_times_keep_the_order_of_lines(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    lines = [layout.row(1, i, 0) for i in (4, 1, 3, 0, 2)]
    dataset = prepared(name, release(tmp_path / "raw", layout, lines), tmp_path / "out")
    ids = dataset.ids()
    assert [int(ids[item - 1][-1]) for item in dataset.history(0)] == [4, 1, 3, 0, 2]
    assert "order of lines" in dataset.info.tie_rule


def broken(layout: Layout) -> dict[str, list[str]]:
    lines = rows_of(layout)
    last = lines[-1]
    delimiter = "\t" if "\t" in last else ","
    return {
        "cut": [*lines[:-1], last.rsplit(delimiter, 1)[0]],
        "not UTF-8": [*lines[:-1], last.replace(delimiter, "\udce9" + delimiter, 1)],
        "no user": [*lines[:-1], delimiter.join("" for _ in last.split(delimiter))],
    }


@pytest.mark.parametrize("what", ["cut", "not UTF-8", "no user"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_line_is_named_and_nothing_is_left(
    name: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = LAYOUTS[name]
    raw = release(tmp_path / "raw", layout, broken(layout)[what])
    assert main([name, "--raw", str(raw), "--out", str(tmp_path / "out"), *layout.options]) == 1
    said = capsys.readouterr().err
    number = 5 * USERS + bool(layout.header)
    assert said.startswith("error: ")
    assert layout.file in said
    assert f"line {number}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
