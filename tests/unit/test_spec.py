"""Component calls: what parses, what is built, and that each error names the way out."""

from __future__ import annotations

import string
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odmt.spec import Call, SpecError, did_you_mean, parse_call

KNOWN = {"sasrec": f"{__name__}:Tower", "gru4rec": f"{__name__}:Gates"}


class Tower:
    def __init__(self, dim: int, *, layers: int = 2, heads: int = 2, dropout: float = 0.1, name: str = "x") -> None:
        self.built = {"dim": dim, "layers": layers, "heads": heads, "dropout": dropout, "name": name}


class Gates:
    def __init__(self, dim: int, length: int, /, **rest: object) -> None: ...


class Anything:
    def __init__(self, **rest: object) -> None:
        self.rest = rest


def positional_only(x: int, /) -> int:
    return x


def typed(flag: bool, kinds: list[int], width: int = 1) -> tuple[object, ...]:
    return flag, kinds, width


NOT_A_CLASS = 3


def parse(text: str) -> Call:
    return parse_call(text, known=KNOWN, kind="backbone")


# brackets, quotes, escapes and a character outside the basic plane are what could go wrong in a string
texts = st.text(string.ascii_letters + " '\"\\(){}[],=:\n\té🎬", max_size=8)
literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: (
        st.lists(children, max_size=3) | st.tuples(children, children) | st.dictionaries(texts, children, max_size=3)
    ),
    max_leaves=5,
)
identifiers = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6).map(lambda name: f"k{name}")


@given(st.sampled_from(["sasrec", "my_pkg.nets:Mamba"]), st.dictionaries(identifiers, literals, max_size=4))
def test_a_call_reads_back_what_it_writes(name: str, arguments: dict[str, object]) -> None:
    call = Call(name, KNOWN.get(name, name), arguments, "backbone")
    assert parse(str(call)) == call


@pytest.mark.parametrize("text", ["sasrec", "sasrec()", " sasrec ( ) ", "sasrec(\n)"])
def test_without_arguments_brackets_and_spaces_do_not_matter(text: str) -> None:
    call = parse(text)
    assert (call, str(call)) == (Call("sasrec", KNOWN["sasrec"], {}, "backbone"), "sasrec")


def test_an_import_path_is_its_own_target() -> None:
    call = parse("my_pkg.nets:Outer.Mamba(state=16, act='silu')")
    assert (call.target, call.arguments) == ("my_pkg.nets:Outer.Mamba", {"state": 16, "act": "silu"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "backbone '' names nothing; there is sasrec, gru4rec"),
        ("(layers=2)", "backbone '(layers=2)' names nothing; there is sasrec, gru4rec"),
        (
            "sas-rec",
            "unknown backbone 'sas-rec'; did you mean 'sasrec'? (a class of your own is written package.module:Name)",
        ),
        (
            "Mamba(x=1)",
            "unknown backbone 'Mamba'; there is sasrec, gru4rec (a class of your own is written package.module:Name)",
        ),
        ("a b:c", "backbone 'a b:c': 'a b:c' is no import path; write package.module:Name"),
        ("nets:", "backbone 'nets:': 'nets:' is no import path; write package.module:Name"),
        (
            "sasrec(layers=2",
            "backbone 'sasrec(layers=2' does not parse ('(' was never closed); write name(key=value, ...)",
        ),
        ("sasrec(a=1)(b=2)", "backbone 'sasrec(a=1)(b=2)' is more than one call; write name(key=value, ...)"),
        ("sasrec(a=1) + 1", "backbone 'sasrec(a=1) + 1' is more than one call; write name(key=value, ...)"),
        ("sasrec(2)", "backbone 'sasrec(2)': arguments go by name; write key=2"),
        ("sasrec(**x)", "backbone 'sasrec(**x)': write out the arguments instead of **x"),
        ("sasrec(a=1, a=2)", "backbone 'sasrec(a=1, a=2)' gives 'a' twice; leave one"),
        (
            "sasrec(layers=two)",
            (
                "backbone 'sasrec(layers=two)': layers=two is no literal; "
                "write a number, a 'quoted string', True, False, None, or a list or dict of these"
            ),
        ),
    ],
)
def test_what_does_not_parse_is_answered_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text)
    assert str(error.value) == message


@pytest.mark.parametrize("value", ["__import__('os')", "1e999", "{[]: 1}", "f'{1}'", "1 + 2", "lambda: 0"])
def test_nothing_but_literals_is_read(value: str) -> None:
    with pytest.raises(SpecError, match="is no literal"):
        parse(f"sasrec(layers={value})")


def test_a_null_byte_is_answered_like_any_other_syntax_error() -> None:
    with pytest.raises(SpecError, match="does not parse"):
        parse("sasrec(a='\0')")


def test_build_takes_from_the_context_what_the_call_leaves_out() -> None:
    tower = parse("sasrec(layers=3)").build(dim=64, layers=9, length=10)
    assert tower.built == {"dim": 64, "layers": 3, "heads": 2, "dropout": 0.1, "name": "x"}


def test_open_keywords_get_the_arguments_and_not_the_context() -> None:
    assert parse(f"{__name__}:Anything(state=16)").build(dim=64).rest == {"state": 16}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sasrec(layer=2)", "sasrec takes no argument 'layer'; did you mean 'layers'?"),
        ("sasrec(zzz=2)", "sasrec takes no argument 'zzz'; there is dim, layers, heads, dropout, name"),
        ("sasrec(layers='2')", "sasrec: layers is of type int, not str ('2')"),
        ("sasrec(layers=2.0)", "sasrec: layers is of type int, not float (2.0)"),
        ("sasrec(layers=True)", "sasrec: layers is of type int, not bool (True)"),
        ("sasrec(name=1)", "sasrec: name is of type str, not int (1)"),
        ("sasrec(layers=2)", "sasrec needs the argument 'dim'; write sasrec(dim=...)"),
        (f"{__name__}:positional_only", f"{__name__}:positional_only needs the argument 'x'"),
        (f"{__name__}:typed(flag=1, kinds=[])", f"{__name__}:typed: flag is of type bool, not int (1)"),
        (f"{__name__}:Towers", f"backbone '{__name__}:Towers': {__name__} has no 'Towers'; did you mean 'Tower'?"),
        (f"{__name__}:NOT_A_CLASS", f"backbone '{__name__}:NOT_A_CLASS': {__name__}:NOT_A_CLASS is no class: 3"),
        (
            "no_such_pkg.nets:Mamba",
            (
                "backbone 'no_such_pkg.nets:Mamba': cannot import 'no_such_pkg.nets' (No module named 'no_such_pkg'); "
                "install it, or put the folder that holds it on PYTHONPATH"
            ),
        ),
        ("builtins:dict", "backbone 'builtins:dict': the signature of builtins:dict cannot be read"),
    ],
)
def test_a_call_is_checked_against_the_constructor(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse(text).check()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("text", ["sasrec(dropout=0)", f"{__name__}:typed(flag=True, kinds=[1, 'x'])", "sasrec(dim=3)"])
def test_what_the_constructor_takes_passes(text: str) -> None:
    parse(text).check(["dim", "length"])


def test_a_module_that_lacks_a_dependency_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy_nets.py").write_text("import absent_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SpecError, match=r"cannot import 'needy_nets' \(No module named 'absent_dependency'\)"):
        parse("needy_nets:Net").check()
    assert "needy_nets" not in sys.modules


def test_did_you_mean_forgives_case_and_hyphens() -> None:
    assert did_you_mean("No-Distil", ["no_distill", "text_only"]) == "did you mean 'no_distill'?"
    assert did_you_mean("zzz", []) == "there is none"


def test_choices_that_hold_commas_or_spaces_are_listed_in_quotes() -> None:
    assert did_you_mean("zzz", ["ids", "text"]) == "there is ids, text"
    assert did_you_mean("zzz", ["ids", "ids, wide"]) == "there is 'ids', 'ids, wide'"
