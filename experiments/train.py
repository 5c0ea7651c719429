"""Train and test one model:

    accelerate launch experiments/train.py --dataset microlens
    accelerate launch experiments/train.py --dataset microlens --ablation cpu no_distill --seed 2 --model.dim 64
    python experiments/train.py --help

Settings come from experiments/configs/DATASET.yaml, then the ablations in order, then the command line.
"""

from __future__ import annotations

import sys
from pathlib import Path

from odmt.config import parse
from odmt.training import run


def main() -> None:
    """Parse the command line and train; input that is wrong ends with one clear line instead of a traceback."""
    try:
        run(parse(sys.argv[1:], configs=Path(__file__).parent / "configs"))
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
