"""What experiments/bench.py measures, a module per suite."""
