"""The animation at the head of README.md: frames of a page of dreams as an APNG. See docs/images/README.md.

    PYTHONPATH=. python tests/support/browser/animation.py runs/demo/dreams.html docs/images/dream.png --dream 1

Only where a frame differs from the one before is it stored, so that the file stays small.
"""

from __future__ import annotations

import argparse
import base64
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from chromium import Browser, Page

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIZE = (880, 452)
FRAMES_PER_SECOND = 60
COLORS = 255
LAYOUT = """
document.querySelectorAll('header, nav, .transport, .cards, footer, .timeline h2, #legend, #view, .group')
  .forEach(found => found.style.display = 'none');
document.querySelector('main').style.padding = '10px';
document.querySelectorAll('#panels canvas').forEach(
  found => { found.style.height = '200px'; found.style.boxShadow = 'none'; });
document.querySelector('.timeline').style.marginTop = '8px';
document.querySelector('.bar').style.padding = '0 4px 4px';
"""

DECODE = """(async () => {
  const image = await createImageBitmap(new Blob([Uint8Array.from(atob("%s"), (text) => text.charCodeAt(0))]));
  const ctx = new OffscreenCanvas(image.width, image.height).getContext("2d");
  ctx.drawImage(image, 0, 0);
  const { data } = ctx.getImageData(0, 0, image.width, image.height), parts = [];
  for (let at = 0; at < data.length; at += 32768) parts.push(String.fromCharCode(...data.subarray(at, at + 32768)));
  return btoa(parts.join(""));
})()"""


def chunk(kind: bytes, content: bytes) -> bytes:
    """One chunk of a PNG (PNG specification, 5.3)."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def pixels_of(page: Page, png: bytes) -> np.ndarray:
    """The pixels of a PNG, which the browser decodes: uint8 (height, width, 3)."""
    width, height = struct.unpack(">II", png[16:24])
    text = page.evaluate(DECODE % base64.b64encode(png).decode())
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[..., :3]


def palette_of(frames: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """At most COLORS colors, the most frequent of 5 bits a channel: uint8 (n, 3); and the frames as their numbers."""
    codes = [(frame.astype(np.int32) >> 3) @ np.array([1024, 32, 1]) for frame in frames]
    counts = sum((np.bincount(code.ravel(), minlength=32_768) for code in codes), np.zeros(32_768, np.int64))
    sums = np.zeros((32_768, 3))
    for code, frame in zip(codes, frames, strict=True):
        for channel in range(3):
            sums[:, channel] += np.bincount(code.ravel(), frame[..., channel].ravel(), 32_768)
    used = np.flatnonzero(counts)
    means = sums[used] / counts[used, None]
    chosen = np.argsort(-counts[used], kind="stable")[:COLORS]
    nearest = ((means[:, None] - means[chosen]) ** 2).sum(-1).argmin(1)
    table = np.zeros(32_768, np.uint8)
    table[used] = nearest
    return means[chosen].round().astype(np.uint8), [table[code] for code in codes]


def apng(frames: list[np.ndarray], delay_ms: int) -> bytes:
    """An endless APNG of frames, uint8 (height, width, 3) (APNG specification)."""
    palette, numbers = palette_of(frames)
    height, width = numbers[0].shape
    out = SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    out += chunk(b"acTL", struct.pack(">II", len(numbers), 0)) + chunk(b"PLTE", palette.tobytes() + b"\0\0\0")
    out += chunk(b"tRNS", b"\xff" * len(palette) + b"\0")
    clear, sequence = len(palette), 0
    for number, (top, left, part) in enumerate(_changes(numbers, clear)):
        place = (*part.shape[::-1], left, top)
        control = struct.pack(">IIIIIHHBB", sequence, *place, delay_ms, 1000, 0, int(number > 0))
        data = zlib.compress(np.pad(part, ((0, 0), (1, 0))).tobytes(), 9)
        out += chunk(b"fcTL", control)
        sequence += 1
        if number:
            data = struct.pack(">I", sequence) + data
            sequence += 1
        out += chunk(b"fdAT" if number else b"IDAT", data)
    return out + chunk(b"IEND", b"")


def _changes(numbers: list[np.ndarray], clear: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Top, left and pixels of the part of each frame that is new; what stays the same within it is clear."""
    yield 0, 0, numbers[0]
    for before, now in pairwise(numbers):
        differs = before != now
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        if not len(rows):
            yield 0, 0, np.full((1, 1), clear, np.uint8)
            continue
        part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        yield int(rows[0]), int(columns[0]), np.where(differs[part], now[part], clear).astype(np.uint8)


def main() -> None:
    """See the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dream", type=int, default=1)
    parser.add_argument("--first", type=int, default=-20, help="first frame")
    parser.add_argument("--last", type=int, default=180, help="last frame")
    parser.add_argument("--every", type=int, default=3, help="frames of the game for one of the animation")
    parser.add_argument("--mode", default="both")
    options = parser.parse_args()
    frames = []
    with Browser() as browser:
        moment = f"#dream={options.dream}&frame={options.first}&mode={options.mode}"
        page = browser.open(options.page, moment, size=SIZE)
        page.evaluate(LAYOUT)
        page.evaluate("new Promise(done => setTimeout(done, 300))")
        for frame in range(options.first, options.last + 1, options.every):
            page.evaluate(f"viewer.go({{frame: {frame}}})")
            frames.append(pixels_of(page, page.screenshot()))
    content = apng(frames, round(1000 * options.every / FRAMES_PER_SECOND))
    options.out.write_bytes(content)
    print(f"{options.out}: {len(frames)} frames, {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
