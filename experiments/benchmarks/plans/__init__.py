"""What a full-size run will take: memory, disk and time, from formulas; see `command`."""
