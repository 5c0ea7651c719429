"""Compare finished runs: `python experiments/report.py runs/A runs/B`; see `studies/comparison.py`."""

from __future__ import annotations

from studies.comparison import main

if __name__ == "__main__":
    main()
