"""Make a model folder, which `odmt.pretrained.from_pretrained` reads anywhere, of a run's checkpoint:

    python -m odmt.consolidate runs/NAME/checkpoints/step-0000012000 OUT

Any checkpoint will do, in one process, whatever engine wrote it on however many; so will the weights of the best epoch
so far, `runs/NAME/checkpoints/best-00003.safetensors`. What DeepSpeed split is put together by its own
`deepspeed.utils.zero_to_fp32`, in the memory of the processor. That unpickles: under DeepSpeed, take checkpoints of
your own runs only.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from odmt.checkpoints import Checkpoints, loop_states
from odmt.config import Experiment, parse
from odmt.data.format import find_dataset, open_dataset
from odmt.data.splits import LeaveTwoOut
from odmt.inputs import encoders_of, features_of
from odmt.lazy_ids import lazy_tables
from odmt.model import ODMT
from odmt.newcomers import TrainedItems
from odmt.pretrained import build_model, load_weights, save_pretrained
from odmt.run_folder import RunFolder
from odmt.types import Tensor

__all__ = ["consolidate", "main"]


def consolidate(checkpoint: str | Path, out: str | Path) -> Path:
    """Write the model as it was in `checkpoint` to the folder `out`, which is returned; the run's dataset and features
    must be where its configuration says.

    Raises ValueError where the checkpoint is damaged, of no run, or of a run on other data, or `out` holds something.
    """
    path, out = Path(checkpoint).resolve(), Path(out)
    run = RunFolder(path.parent.parent)
    if not path.exists() or not run.experiment.is_file():
        raise ValueError(
            f"{path} is no checkpoint of a run: it must exist, and experiment.yaml two folders above it; name one as "
            "runs/NAME/checkpoints/step-0000012000, or best-00003.safetensors beside it"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty; name a folder that is, or none yet")
    if damage := Checkpoints(path.parent).damage(path):
        raise ValueError(f"{damage}; take another checkpoint of {run.path}")
    experiment = parse(["--config", str(run.experiment)], configs=run.path)
    dataset = open_dataset(find_dataset(experiment.dataset, experiment.data.root))
    encoders = encoders_of(experiment)
    features = features_of(experiment, dataset, encoders)
    run.check_same(experiment, {"dataset": dataset.fingerprint, "features": json.dumps(features.keys)})
    # what items count is among the weights, as far as it is still needed
    counts = np.ones(features.num_items + 1, dtype=np.int64)
    model = build_model(experiment, features, item_counts=counts, encoders=encoders, start=False)
    if path.is_dir():
        model.load_state_dict(_weights(path))
        _settle(model, experiment, path)
    else:
        load_weights(model, path)
    split = LeaveTwoOut(dataset.offsets, dataset.items, num_items=dataset.num_items, length=experiment.data.length)
    save_pretrained(model, experiment, out, items=TrainedItems(dataset.ids(), split.item_counts()[1:]))
    return out


def _settle(model: ODMT, experiment: Experiment, checkpoint: Path) -> None:
    """Let rows of id tables that take their steps when they are read take all."""
    if experiment.train.id_updates == "lazy":
        state = loop_states(checkpoint)["lazy"]
        lazy = lazy_tables(model, experiment.train, steps=state["taken"])
        lazy.load_state_dict(state)
        lazy.settle()


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    whole = checkpoint / "model.safetensors"
    if whole.is_file():  # as accelerate writes it, of DistributedDataParallel too
        return {name.removeprefix("module."): tensor for name, tensor in load_file(whole).items()}
    from odmt.fsdp import joined_shares

    if (joined := joined_shares(checkpoint)) is not None:
        return joined
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    found = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag="pytorch_model")
    assert found is not None
    return dict(found)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m odmt.consolidate",
        description="Make a model folder of a run's checkpoint, whatever engine wrote it on however many processes.",
    )
    parser.add_argument("checkpoint", help="runs/NAME/checkpoints/step-0000012000; DeepSpeed's is unpickled")
    parser.add_argument("out", help="the folder to write, which from_pretrained reads")
    chosen = parser.parse_args(argv)
    try:
        out = consolidate(chosen.checkpoint, chosen.out)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
