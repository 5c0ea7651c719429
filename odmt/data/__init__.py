"""Read and write dataset folders, split them, and load batches. Importing this package imports nothing."""

from __future__ import annotations

MODALITIES = ("text", "image", "video", "audio")
"""Content columns of items.parquet: `text` holds the text itself, the others a path relative to `media_root`."""
