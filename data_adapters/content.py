"""What items are: texts made of fields by a template, and media files found by name or by path."""

from __future__ import annotations

import difflib
import hashlib
import html
import os
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_adapters.release import Media
from data_adapters.text_files import ReleaseError
from data_adapters.vendor_files import SUFFIXES
from odmt.data.format import FileRecord

__all__ = ["MediaFinder", "Template", "clean_html"]


class Template:
    """Make one text of an item's fields: "{title}. {brand}", or "title" for "{title}".

    A field that is empty takes the literal before it along, and a bracket that closes behind it: "{title} ({year})" of
    a title alone is the title. A format such as "{id:.3}" is applied to the field's text.

    Raises:
        ReleaseError: where the template names a field that there is not, or none at all.
    """

    def __init__(self, template: str, fields: Sequence[str], *, option: str) -> None:
        given = f"{{{template}}}" if template in fields else template
        try:
            parts = list(string.Formatter().parse(given))
        except ValueError as error:
            raise ReleaseError(f"{option} {template!r}: {error}; write fields as {{name}}") from error
        self._parts: list[tuple[str, str, str, str]] = []  # literal before, field, format, brackets behind
        literal = ""
        for before, name, form, conversion in parts:
            literal += before
            if conversion or not _is_format(form or ""):
                wrong = f"!{conversion}" if conversion else f":{form}"
                raise ReleaseError(f"{option} {template!r}: '{wrong}' is no format of text; write {{{name}}}")
            if name is not None:
                self._parts.append((self._give_brackets_back(literal), name, form or "", ""))
                literal = ""
        self._end = self._give_brackets_back(literal)
        self.names = tuple(dict.fromkeys(name for _, name, _, _ in self._parts))
        for name in self.names or (template,):
            if name not in fields:
                close = difflib.get_close_matches(name, fields, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"there are: {', '.join(fields) or 'none'}"
                raise ReleaseError(f"{option} {template!r}: no field '{name}'; {hint}")

    def render(self, values: Mapping[str, str | None]) -> str | None:
        """Return the text, or None where every field is empty."""
        text = ""
        for place, (before, name, form, behind) in enumerate(self._parts):
            value = (values.get(name) or "").strip()
            if not value:
                continue
            if text and text[-1] in ".!?" and before.startswith("."):
                before = before[1:]  # "Really?. Acme" reads badly
            text += before + format(value, form) + behind if text or place == 0 else format(value, form)
        return text + self._end if text else None

    def _give_brackets_back(self, literal: str) -> str:
        """Move the brackets that `literal` begins with to the field before; return the rest."""
        rest = literal.lstrip(")]}»”")
        if self._parts and rest != literal:
            before, name, form, _ = self._parts[-1]
            self._parts[-1] = before, name, form, literal[: len(literal) - len(rest)]
        return rest if self._parts else literal


def _is_format(form: str) -> bool:
    try:
        format("", form)
    except ValueError:
        return False
    return True


TAGS = (
    "script style a abbr address article aside b big blockquote body br caption center cite code col colgroup dd del "
    "dfn div dl dt "
    "em embed figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header hr html i iframe img input ins kbd "
    "label li link main map mark meta nav noscript object ol option p param pre q s samp section select small source "
    "span strike strong sub sup svg table tbody td tfoot th thead title tr tt u ul var video wbr"
)
ATTRIBUTE = r"""\s+(?:nowrap|noshade|hidden|compact|checked|disabled|[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s"'<>]+))"""
TAG = re.compile(rf"</?(?:{TAGS.replace(' ', '|')})(?:{ATTRIBUTE})*\s*/?>", re.IGNORECASE)
HIDDEN = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)


def clean_html(text: str, how: str) -> str:
    """Turn &amp; and the like into characters (`unescape`), and take tags away too (`strip`); `keep` does nothing.

    Vendors escape some texts twice, so both are done twice.
    """
    if how == "keep" or ("&" not in text and "<" not in text):
        return text
    for _ in range(2):
        if how == "strip":  # known tags alone: in "a<b and c>d" nothing is one
            text = " ".join(TAG.sub(" ", HIDDEN.sub(" ", text)).split())
        text = html.unescape(text)
    return text


class MediaFinder:
    """Find the media of items below `root`, the folder that their paths start from.

    Raises:
        ReleaseError: where a folder is not there, or a path leads out of `root`.
    """

    def __init__(self, media: Media, root: Path, fields: Sequence[str], *, modality: str) -> None:
        self.root, self.modality = Path(os.path.abspath(root)), modality  # links keep the names they have
        self.absent = 0
        """Paths that were named by an item but are not there."""
        self.example = ""
        self.listed = self.unnameable = 0
        """Files in the folders, and those whose names are not UTF-8, which no item can have."""
        self.sources: list[FileRecord] = []
        self._stem = media.stem
        self._template = Template(media.field, ["id", *fields], option=f"--{modality}") if media.field else None
        self._files: dict[str, str] = {}
        self._series: dict[str, list[tuple[int, str]]] | None = None
        self._folders = [Path(os.path.abspath(folder)) for folder in media.folders]
        if self._template:
            self._folders = [self.root / media.field.partition("{")[0].rpartition("/")[0]]
            if self._folders[0].is_dir():
                self._list(self._folders[0], SUFFIXES.get(modality, ()))
        for folder in media.folders:
            if not folder.is_dir():
                raise ReleaseError(f"no folder at {folder} for {modality} files; name the one that holds them")
            self._list(Path(os.path.abspath(folder)), [suffix.lower() for suffix in media.suffixes])

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that paths are made of."""
        return self._template.names if self._template else ()

    def find(self, item: str, values: Mapping[str, str | None]) -> str | None:
        """Return the item's file, relative to `root`, or None."""
        if self._template is None:
            return self._files.get(self._stem(item))
        path = self._template.render({**values, "id": item})
        if path is None:
            return None
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\0" in path:
            raise ReleaseError(
                f"{self.modality} of item '{item}' is {path!r}, which leads out of {self.root}; paths must be relative "
                "to that folder and stay inside it"
            )
        if os.path.isfile(self.root / path):  # Path.is_file raises where a name is too long
            return PurePosixPath(path).as_posix()
        self.absent += 1
        return None

    def check_inside(self, path: str) -> Path:
        """Return where a file lies that is to be copied.

        Raises:
            ReleaseError: where it is a link that leads out of the folders: what it points to may not be a picture.
        """
        real = (self.root / path).resolve()
        if not any(real.is_relative_to(folder.resolve()) for folder in self._folders):
            raise ReleaseError(
                f"{self.root / path} is a link to {real}, outside the folder of the {self.modality} files, and is not "
                "copied; put the file itself there, or leave --pack out"
            )
        return real

    def find_series(self, item: str) -> list[str] | None:
        """Return the item's files ITEM-1, ITEM-2, ..., relative to `root`, in the order of their numbers."""
        if self._series is None:
            self._series = {}
            for stem, path in self._files.items():
                name, dash, number = stem.rpartition("-")
                if dash and number.isdecimal():
                    self._series.setdefault(name, []).append((int(number), path))
        found = self._series.get(self._stem(item))
        return [path for _, path in sorted(found)] if found else None

    def _list(self, folder: Path, suffixes: Sequence[str]) -> None:
        digest, total = hashlib.sha256(), 0
        rank = {suffix: place for place, suffix in enumerate(suffixes)}
        found: dict[str, tuple[int, str]] = {}
        for path, size in _walk(folder, self.root):
            name = PurePosixPath(path)
            if suffixes and name.suffix.lower() not in rank:
                continue
            if not _is_utf8(path):
                self.unnameable += 1
                continue
            self.listed += 1
            self.example = self.example or path
            digest.update(f"{path}\0{size}\n".encode())
            total += size
            place = rank.get(name.suffix.lower(), 0)
            if name.stem not in found or place < found[name.stem][0]:
                found[name.stem] = place, path
        for stem, (_, path) in found.items():
            self._files.setdefault(stem, path)
        self.sources.append(FileRecord(f"{_relative(folder, self.root)}/", total, digest.hexdigest()))


def _walk(folder: Path, root: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[str, int]]:
    if folder.resolve() in above:
        return  # a link to a folder that it lies in
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_symlink() and not os.path.exists(entry.path):
                continue  # a link to nothing, or to itself
            if entry.is_dir():
                yield from _walk(Path(entry.path), root, (*above, folder.resolve()))
            elif entry.is_file():
                yield _relative(Path(entry.path), root), entry.stat().st_size


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
