"""Checkpoints of a run: written aside, hashed, and renamed into place; a run goes on from the newest that is whole.

`checkpoints/step-0000012000/` holds what accelerate, or `odmt.fsdp`, keeps of model and optimizer (safetensors, and
tensors that torch reads with `weights_only`; DeepSpeed writes a format of its own), `loop.pt` of the schedule and of
lazy ids, read so, too, the random generators of each process as JSON, and `checkpoint.json`, written last: how far the
run was, and size and hash of every file, the best weights included, which lie beside as `best-00003.safetensors`: once,
so that where they are damaged, so are all checkpoints that ask for them. All processes must see the same folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError

from odmt.data.folder_name import flush
from odmt.data.manifest import hash_file
from odmt.run_folder import write_whole

__all__ = ["Checkpoints", "Progress", "loop_states"]

MANIFEST = "checkpoint.json"
LOOP = "loop.pt"
"""What the loop keeps of its own: read with `weights_only`, which accelerate does not do for what is registered."""
FULL_DISK = ("iostream error", "PytorchStreamWriter", "unexpected pos")
"""What torch says where it cannot write."""


@dataclass
class Progress:
    """Everything the loop needs to go on, beside the states of model, optimizer, schedule and random generators.

    epoch: epochs that are done; batch: batches done of the one under way; step: batches done in all;
    seen: what `odmt.meters` counted in the batches of the one under way.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_valid: dict[str, Any] | None = None
    seconds: float = 0.0
    metrics_bytes: int = 0
    seen: dict[str, int] = field(default_factory=dict)


@runtime_checkable
class Stateful(Protocol):
    """Name what is asked of the loop's own things."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


class Checkpoints:
    """Keep the newest `keep` checkpoints of a run in `folder`, and the best weights that they may be asked for.

    loop: by name, what else has a state, alike on all processes; of numbers, text and tensors.
    """

    def __init__(self, folder: Path, *, keep: int = 2, loop: Mapping[str, Stateful] | None = None) -> None:
        self.folder = folder
        self.keep = keep
        self.loop = loop or {}

    def weights_of(self, epoch: int) -> Path:
        """Name the weights kept of an epoch that was the best when it ended."""
        return self.folder / f"best-{epoch:05d}.safetensors"

    def newest(self, accelerator: Accelerator) -> Path | None:
        """Find the newest checkpoint that is whole, None where there is none; damaged ones are passed over aloud.

        Raises ValueError where all are damaged.
        """
        found: list[Path | str | None] = [None]
        if accelerator.is_main_process:  # to read gigabytes once is enough
            damages = []
            for path in self._all():
                if damage := self.damage(path):
                    damages.append(damage)
                else:
                    found[0] = path
                    break
            for damage in damages if found[0] else ():
                print(f"{damage}; going on from {found[0]}")
            if damages and not found[0]:
                found[0] = f"{'; '.join(damages)}: no checkpoint is whole; begin anew with --overwrite"
        broadcast_object_list(found)
        if isinstance(found[0], str):
            raise ValueError(found[0])
        return found[0]

    def load(self, accelerator: Accelerator, path: Path) -> Progress:
        """Bring the prepared model, optimizer, schedule and this process's random generators to where they were."""
        accelerator.load_state(str(path))
        for name, state in loop_states(path).items():
            self.loop[name].load_state_dict(state)
        _set_randomness(json.loads((path / _randomness_of(accelerator)).read_text()))
        told = _told(path)
        assert told is not None, "newest() has read it"
        return Progress(**told["progress"])

    def save(self, accelerator: Accelerator, progress: Progress) -> None:
        """Write a checkpoint, and remove what is no longer needed; raises OSError where the disk is full."""
        partial = self.folder / ".partial"
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed while saving
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        randomness = json.dumps(_randomness())  # before anything else may draw
        try:
            accelerator.save_state(str(partial))
            if accelerator.is_main_process:
                torch.save({name: one.state_dict() for name, one in self.loop.items()}, partial / LOOP)
        except (RuntimeError, SafetensorError) as error:
            # how safetensors and torch report a full disk; others are of memory, or of processes that are gone
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in FULL_DISK):
                raise
            raise OSError(f"{partial} cannot be written: {error}") from error
        # accelerate's own copy of it would be passed over in silence where it cannot be read
        (partial / f"random_states_{accelerator.process_index}.pkl").unlink(missing_ok=True)
        write_whole(partial / _randomness_of(accelerator), randomness)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            for rank in range(accelerator.num_processes):
                if not (partial / f"random-{rank}.json").is_file():
                    raise OSError(f"{partial} lacks what process {rank} wrote; all machines must share this folder")
            best = [self.weights_of(progress.best_epoch)] if progress.best_epoch else []
            told = {"progress": asdict(progress), "files": {}}
            for path in [*_files(partial), *best]:
                flush(path)  # the checkpoint before it may be about to go
                told["files"][os.path.relpath(path, partial)] = [path.stat().st_size, hash_file(path)]
            write_whole(partial / MANIFEST, json.dumps({"told": told, "sha256": _hash(told)}, indent=1))
            flush(partial)
            new = self.folder / f"step-{progress.step:010d}"
            aside = self.folder / ".replaced"
            shutil.rmtree(aside, ignore_errors=True)
            if new.exists():  # one that was found damaged, or of the same step before validation
                os.replace(new, aside)
            os.replace(partial, new)
            shutil.rmtree(aside, ignore_errors=True)
            self._remove_others(new)
        accelerator.wait_for_everyone()

    def _all(self) -> list[Path]:
        """List checkpoints, the newest first; one being written carries another name."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def damage(self, path: Path) -> str:
        """Say what is wrong with a checkpoint, or with the weights of an epoch that one asks for; nothing where it is
        whole.
        """
        if path.is_file():
            asked = f"../{path.name}"
            known = [told["files"][asked] for one in self._all() if (told := _told(one)) and asked in told["files"]]
            files = {path.name: known[0]} if known else {}
        else:
            told = _told(path)
            if told is None:
                return f"{path} is damaged ({MANIFEST} cannot be read as it was written)"
            files = told["files"]
        for name, (size, digest) in files.items():
            file = path if path.is_file() else path / name
            if not file.is_file():
                return f"{path} is damaged ({name} is missing)"
            if (found := file.stat().st_size) != size:
                return f"{path} is damaged ({name} has {found:,} bytes, and had {size:,})"
            if hash_file(file) != digest:
                return f"{path} is damaged ({name} is not what was written: its hash differs)"
        return ""

    def _remove_others(self, new: Path) -> None:
        """Keep `new` and the last before it; what claims to be newer was passed over as damaged."""
        kept = [path for path in self._all() if path <= new][: self.keep]
        needed = set()
        for path in self._all():
            if path not in kept:
                shutil.rmtree(path)
            elif told := _told(path):
                needed |= {(path / name).resolve() for name in told["files"]}
        for path in self.folder.glob("best-*"):
            if path.resolve() not in needed:
                path.unlink()


def loop_states(checkpoint: Path) -> dict[str, Any]:
    """Read the states of the loop's own things, by name, into the memory of the processor."""
    return torch.load(checkpoint / LOOP, map_location="cpu", weights_only=True)


def _told(path: Path) -> dict[str, Any] | None:
    """Read what a checkpoint tells of itself, None where that is damaged."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        return manifest["told"] if manifest["sha256"] == _hash(manifest["told"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _randomness_of(accelerator: Accelerator) -> str:
    return f"random-{accelerator.process_index}.json"


def _randomness() -> dict[str, Any]:
    """Tell the states of the random generators of python, numpy and torch as numbers and text."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - components of one's own may draw from it
    states: dict[str, Any] = {"python": [version, list(numbers), gauss]}
    states["numpy"] = [name, np.asarray(keys).tolist(), *rest]
    states["torch"] = torch.get_rng_state().numpy().tobytes().hex()
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return states


def _set_randomness(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(_bytes(states["torch"]))
    if "cuda" in states:
        torch.cuda.set_rng_state(_bytes(states["cuda"]))


def _bytes(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(bytes.fromhex(text), dtype=np.uint8).copy())
