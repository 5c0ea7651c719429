"""Components written as calls: `sasrec(layers=2)`, or `my_pkg.nets:Mamba(state=16)` for a class of your own.

The constructor's signature is the schema: a call is checked against it before anything is built, so that nothing is
declared twice and a misspelt argument is answered with the right name. Only literals are read (`ast.literal_eval`);
nothing in a specification is ever executed.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "SpecError", "did_you_mean", "nearest", "parse_call"]

IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
SCALARS: Mapping[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}


class SpecError(ValueError):
    """Say what is wrong with a component call, and what to write instead."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Point from a misspelt `word` to the nearest of `choices`, or list them all where none is near; in quotes where
    they are more than words.
    """
    names = list(dict.fromkeys(choices))
    if near := nearest(word, names):
        return f"did you mean {near!r}?"
    listed = [repr(name) for name in names] if any(set(name) & {" ", ","} for name in names) else names
    return f"there is {', '.join(listed) or 'none'}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Give the one of `choices` that a misspelt `word` may stand for, "" where none is near."""
    folded = {name.lower().replace("-", "_"): name for name in choices}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), folded, n=1, cutoff=0.6)
    return folded[near[0]] if near else ""


@dataclass(frozen=True)
class Call:
    """Hold a component and the arguments it was given; `str()` writes it back as it is read."""

    name: str
    target: str
    arguments: Mapping[str, Any]
    kind: str = "component"

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.name}({arguments})" if arguments else self.name

    def check(self, context: Iterable[str] = (), *, fixed: Iterable[str] = ()) -> None:
        """Check the call against the constructor without building; `context` names what `build` will supply.

        Raises SpecError for what cannot be imported, an argument that is unknown, of the wrong type or missing, or one
        of `fixed`: what components share, so that none may have its own.
        """
        for name in {*fixed}.intersection(self.arguments):
            raise SpecError(f"{self.name}: {name} is shared by all components and set beside them, not in a call")
        parameters = self._parameters()
        named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        for name, value in self.arguments.items():
            if name in named:
                self._check_type(name, value, named[name].annotation)
            elif not takes_any:
                raise SpecError(f"{self.name} takes no argument {name!r}; {did_you_mean(name, named)}")
        # a positional-only parameter cannot be supplied by name, so it counts as missing
        supplied = named.keys() & {*self.arguments, *context}
        variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        for name, parameter in parameters.items():
            if parameter.default is parameter.empty and parameter.kind not in variadic and name not in supplied:
                raise SpecError(f"{self.name} needs the argument {name!r}; write {self.name}({name}=...)")

    def build(self, /, **context: Any) -> Any:
        """Construct the component; what the call leaves out is taken from `context` where the constructor asks for it.

        Context that the constructor does not name is left aside, so one context serves every component of a kind.
        """
        self.check(context)
        wanted = self._parameters().keys() & context.keys()
        return self.constructor()(**{**{name: context[name] for name in wanted}, **self.arguments})

    def constructor(self) -> Callable[..., Any]:
        """Import what the call constructs. Raises SpecError where there is no such thing."""
        module_name, _, attribute = self.target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise SpecError(
                f"{self.kind} {self.name!r}: cannot import {module_name!r} ({error}); "
                "install it, or put the folder that holds it on PYTHONPATH"
            ) from error
        try:
            constructor = operator.attrgetter(attribute)(module)
        except AttributeError as error:
            public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            hint = did_you_mean(attribute, public)
            raise SpecError(f"{self.kind} {self.name!r}: {module_name} has no {attribute!r}; {hint}") from error
        if not callable(constructor):
            raise SpecError(f"{self.kind} {self.name!r}: {self.target} is no class: {constructor!r}")
        return constructor

    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        try:
            return inspect.signature(self.constructor()).parameters
        except (TypeError, ValueError) as error:
            if isinstance(error, SpecError):
                raise
            message = f"{self.kind} {self.name!r}: the signature of {self.target} cannot be read; wrap it in a function"
            raise SpecError(message) from error

    def _check_type(self, name: str, value: object, annotation: object) -> None:
        # only plain scalars: the point is to catch layers='2' before training starts, not to be a type checker
        expected = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        allowed = SCALARS.get(expected)
        if allowed and (not isinstance(value, allowed) or (isinstance(value, bool) and expected != "bool")):
            raise SpecError(f"{self.name}: {name} is of type {expected}, not {type(value).__name__} ({value!r})")


def parse_call(text: str, *, known: Mapping[str, str], kind: str, typed: str = "") -> Call:
    """Read `name`, `name(key=literal, ...)` or `package.module:Name(...)`; nothing is imported yet.

    `known` maps the short names to import paths, `kind` names the component in errors ("backbone"), which cite `typed`
    where `text` was made of what somebody typed. Raises SpecError naming the offending part.
    """
    name, bracket, rest = text.strip().partition("(")
    name = name.rstrip()
    if not name:
        raise SpecError(f"{kind} {text!r} names nothing; {did_you_mean('', known)}")
    if ":" in name and not IMPORT_PATH.fullmatch(name):
        raise SpecError(f"{kind} {text!r}: {name!r} is no import path; write package.module:Name")
    if ":" not in name and name not in known:
        own = "(a class of your own is written package.module:Name)"
        raise SpecError(f"unknown {kind} {name!r}; {did_you_mean(name, known)} {own}")
    arguments = _parse_arguments(bracket + rest, f"{kind} {typed or text!r}") if bracket else {}
    return Call(name, known.get(name, name), arguments, kind)


def _parse_arguments(text: str, where: str) -> dict[str, Any]:
    """Read `(key=literal, ...)`; `where` opens every error."""
    try:
        tree = ast.parse(f"_{text}", mode="eval").body
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise SpecError(f"{where} does not parse ({reason}); write name(key=value, ...)") from error
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
        raise SpecError(f"{where} is more than one call; write name(key=value, ...)")
    if tree.args:
        raise SpecError(f"{where}: arguments go by name; write key={ast.unparse(tree.args[0])}")
    arguments: dict[str, Any] = {}
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise SpecError(f"{where}: write out the arguments instead of **{ast.unparse(keyword.value)}")
        if keyword.arg in arguments:
            raise SpecError(f"{where} gives {keyword.arg!r} twice; leave one")
        arguments[keyword.arg] = _literal(keyword.value, f"{where}: {keyword.arg}")
    return arguments


def _literal(node: ast.expr, where: str) -> Any:
    try:
        value = ast.literal_eval(node)
        if ast.literal_eval(repr(value)) == value:
            return value
    except (ValueError, TypeError):
        pass  # not a literal, or one that cannot be written back (1e999 reads as infinity)
    literals = "a number, a 'quoted string', True, False, None, or a list or dict of these"
    raise SpecError(f"{where}={ast.unparse(node)} is no literal; write {literals}")
