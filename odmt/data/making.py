"""Commands that make what is not there: dataset folders of releases that we have settings for, and features."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ENCODERS", "HELP", "RECIPES", "WRITE", "Recipe", "encoding_command", "recipe_of"]

MINILM = "sentence-transformers/all-MiniLM-L6-v2 --pool mean"
CLIP = "vit_base_patch32_clip_224.openai"
ENCODERS: Mapping[str, str] = {"text": MINILM, "image": CLIP, "video": f"'{CLIP}(frames=8)'"}
"""An example for every modality that has encoders, as it stands after --encoder."""
HELP = "other encoders: python -m odmt.encoders --help"
WRITE = "odmt.data.feature_writer.FeatureWriter writes what you have computed (python -m pydoc odmt.data.features)"
"""The way to features of what has no encoders."""


@dataclass(frozen=True)
class Recipe:
    """Tell how a dataset folder is made: where its `files` come from, as it reads before "run:", and the adapter's
    `commands`, in which {out} is the folder, {raw} one for files that are generated, and DIR the user's own.
    """

    files: str
    commands: tuple[str, ...]
    encoders: Mapping[str, str]
    """One for every modality that the dataset's settings read, as it stands after --encoder."""
    without: str = ""
    """What to do where the files lack a modality."""

    def lines(self, folder: Path) -> list[str]:
        """Write all commands that `folder` takes, features included."""
        places = {"out": shlex.quote(str(folder)), "raw": shlex.quote(str(folder.parent / "raw" / folder.name))}
        prepared = [command.format(**places) for command in self.commands]
        return prepared + [encoding_command(folder, modality, call) for modality, call in self.encoders.items()]


RECIPES: Mapping[str, Recipe] = {
    "microlens": Recipe(
        "download the release from https://github.com/westlake-repl/MicroLens, unpack it to DIR, then",
        ("python -m data_adapters microlens --raw DIR --out {out}",),
        {"text": MINILM, "image": CLIP},
        "without covers, train with --ablation microlens-cpu, which reads ids and titles",
    ),
    "sample": Recipe(
        "with no need of a download,",
        ("python -m data_adapters sample --out {raw}", "python -m data_adapters microlens --raw {raw} --out {out}"),
        {"text": "'tfidf(dim=64)'", "image": "'histogram(bins=8)'"},
    ),
    "ml-100k": Recipe(
        "download RecBole's atomic files of ml-100k, https://recbole.io/dataset_list.html, unpack them to DIR, and put "
        "posters, which they lack, into DIR/posters as ITEM.jpg, then",
        ("python -m data_adapters recbole --raw DIR --out {out}",),
        {"text": MINILM, "image": f"{CLIP} --pool mean"},
        "without posters, train with --model.streams id text",
    ),
    "beauty": Recipe(
        "download reviews_Beauty_5.json.gz and meta_Beauty.json.gz of the release of 2014 to DIR, from "
        "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, then",
        ("python -m data_adapters amazon --raw DIR --out {out} --text '{{title}}'",),
        {"text": MINILM},
    ),
}
"""By the name of the dataset; other sizes of a release are named with a hyphen, such as microlens-100k."""


def recipe_of(folder: Path) -> Recipe | None:
    """Find the recipe for a dataset folder, by its name."""
    names = (name for name in RECIPES if folder.name == name or folder.name.startswith(f"{name}-"))
    return next((RECIPES[name] for name in names), None)


def encoding_command(folder: Path, modality: str, encoder: str = "") -> str:
    """Give the command that makes features of a modality, with that `encoder` or an example; "" where it has none."""
    recipe = recipe_of(folder)
    encoder = encoder or (recipe.encoders.get(modality, "") if recipe else "") or ENCODERS.get(modality, "")
    place = shlex.quote(str(folder))
    return f"python -m odmt.encoders {place} --modality {modality} --encoder {encoder}" if encoder else ""
