"""What `experiments/report.py` and `experiments/ablate.py` run: comparing finished runs, and suites of them."""
