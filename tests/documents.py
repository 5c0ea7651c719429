"""The documents whose commands and code are tested."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["CODE", "COMMANDS", "DOCUMENTS"]

_REPOSITORY = Path(__file__).resolve().parent.parent

DOCUMENTS = {
    name: (_REPOSITORY / name).read_text(encoding="utf-8")
    for name in ("README.md", "experiments/README.md", "experiments/results/README.md")
}
_BLOCKS = [block for text in DOCUMENTS.values() for block in re.findall(r"```(\w+)\n(.*?)```", text, flags=re.DOTALL)]

CODE = [code for language, code in _BLOCKS if language == "python"]
COMMANDS = [line for language, code in _BLOCKS if language == "bash" for line in code.replace("\\\n", " ").splitlines()]
