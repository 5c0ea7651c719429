"""Train and test one model:

    accelerate launch experiments/train.py --dataset microlens
    accelerate launch experiments/train.py --dataset microlens --ablation microlens-cpu no_distill --seed 2
    python experiments/train.py --help

Settings come from experiments/configs/DATASET.yaml, then the ablations in order, then the command line.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import odmt
from odmt.config import parse


def main() -> None:
    """Parse the command line and train; wrong input ends in words that say what to do, not in a traceback."""
    try:
        experiment = parse(sys.argv[1:], configs=Path(__file__).parent / "configs")
        from odmt.training import run  # brings torch, which --help can do without

        run(experiment)
    except OSError as error:
        sys.exit(f"error: {error}; when that is mended (room on the disk, say), the same command with --resume goes on")
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}{_said_by(error)}")
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":  # of several processes one says it
            print(_interrupted(sys.argv[1:]), file=sys.stderr)
        sys.exit(130)


def _interrupted(argv: list[str]) -> str:
    if "--overwrite" in argv:  # what was to be overwritten may still be there
        return "interrupted; with --resume in place of --overwrite the same command goes on with what the folder holds"
    return "interrupted; the same command with --resume goes on from the last checkpoint, or begins where there is none"


def _said_by(error: Exception) -> str:
    """Say where an error was raised that is not in our own words: in a library, or in a component of the user's."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    is_ours = Path(last.filename).is_relative_to(Path(odmt.__file__).parent) and str(last.line).startswith("raise ")
    return "" if is_ours else f"\n(said by {Path(last.filename).name}:{last.lineno})"


if __name__ == "__main__":
    main()
