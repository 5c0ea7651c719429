"""Vendors' files to dataset folders, one module per vendor; see `python -m data_adapters --help`."""
