"""Train and test one model:

    accelerate launch experiments/train.py --dataset microlens
    accelerate launch experiments/train.py --dataset microlens --ablation microlens-cpu no_distill --seed 2
    python experiments/train.py --help

Settings come from experiments/configs/DATASET.yaml, then the ablations in order, then the command line.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from odmt.config import parse


def main() -> None:
    """Parse the command line and train; wrong input ends in one line that says what to do, not in a traceback."""
    try:
        experiment = parse(sys.argv[1:], configs=Path(__file__).parent / "configs")
        from odmt.training import run  # brings torch, which --help can do without

        run(experiment)
    except OSError as error:
        sys.exit(f"error: {error}; when that is mended (room on the disk, say), the same command with --resume goes on")
    except (ValueError, FloatingPointError) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        sys.exit(f"error: {error}\n(said by {Path(last.filename).name}:{last.lineno})")


if __name__ == "__main__":
    main()
