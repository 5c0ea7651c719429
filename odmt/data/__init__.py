"""Read and write dataset folders, split them, and load batches. Importing this package imports nothing."""
