"""Draws one bar per row of a table (name,height) into a PNG picture."""

import csv
import struct
import sys
import zlib
from pathlib import Path

BAR, GAP, HEIGHT = 40, 10, 200
INK, PAPER = (46, 92, 138), (250, 250, 245)


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file (RFC 2083, section 3.2)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: list[list[tuple[int, int, int]]]) -> bytes:
    """Pixels, row by row, as a PNG picture."""
    lines = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def main(table: str, picture: str) -> None:
    """Read the table, draw the bars."""
    with Path(table).open(newline="") as stream:
        heights = [float(row["height"]) for row in csv.DictReader(stream)]
    tops = [HEIGHT - round((HEIGHT - GAP) * height / max(heights)) for height in heights]
    width = len(tops) * (BAR + GAP) + GAP
    rows = [[PAPER] * width for _ in range(HEIGHT)]
    for number, top in enumerate(tops):
        left = GAP + number * (BAR + GAP)
        for row in rows[top:]:
            row[left : left + BAR] = [INK] * BAR
    Path(picture).write_bytes(png(rows))
    print(f"{len(heights)} bars")


main(*sys.argv[1:])
