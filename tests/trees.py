"""Trees of files in the place of /proc and /sys."""

from pathlib import Path


def tree(root: Path, files: dict[str, str]) -> Path:
    """Write the files below ``root``, and give it back."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
