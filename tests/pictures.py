"""Pictures of the console for its documentation: `python -m tests.pictures [NAME …] [light] [dark] [phone]`.

Of every line of tests/sights.py that is for a picture, over a made-up fleet whose clock stands still, so that a
picture changes only when the page does. They are kept small: 256 colours are more than these pages need.
"""

from __future__ import annotations

import base64
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any, Final

from tests.sights import SIGHTS
from tests.stage import Stage

FOLDER: Final = Path(__file__).parents[1] / "docs" / "console"
LOOKS: Final = (("light", "light", False), ("dark", "dark", False), ("phone", "light", True))
# Of a picture that a page of the browser decodes: 256 of its colours, and each pixel's nearest of them.
REDUCE: Final = """async (png) => {
  const octets = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const image = await createImageBitmap(new Blob([octets], { type: "image/png" }));
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  const seen = new Map();
  const pixels = new Uint32Array(data.buffer);
  for (const pixel of pixels) seen.set(pixel, (seen.get(pixel) ?? 0) + 1);
  const part = (colour) => [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  // One of each kind first, or what is small and coloured would turn grey.
  const often = [...seen].sort((a, b) => b[1] - a[1]).map(([colour]) => colour);
  const kinds = new Map();
  for (const colour of often) {
    const kind = colour & 0xe0e0e0;
    if (!kinds.has(kind)) kinds.set(kind, colour);
  }
  const kept = [...new Set([...kinds.values(), ...often])].slice(0, 256).map(part);
  const nearest = new Map();
  for (const colour of seen.keys()) {
    const [r, g, b] = part(colour);
    let best = 0;
    let least = Infinity;
    kept.forEach(([kr, kg, kb], at) => {
      const far = (r - kr) ** 2 + (g - kg) ** 2 + (b - kb) ** 2;
      if (far < least) [best, least] = [at, far];
    });
    nearest.set(colour, best);
  }
  const found = Uint8Array.from(pixels, (pixel) => nearest.get(pixel));
  let text = "";
  for (let at = 0; at < found.length; at += 32768) text += String.fromCharCode(...found.subarray(at, at + 32768));
  return { width: image.width, height: image.height, colours: kept.flat(), pixels: btoa(text) };
}"""


def small(reducer: Any, png: bytes) -> bytes:
    """The same picture with a palette (PNG, third edition, sections 11.2.1 to 11.2.4)."""
    found = reducer.evaluate(REDUCE, base64.b64encode(png).decode())
    width, height, pixels = found["width"], found["height"], base64.b64decode(found["pixels"])
    lines = b"".join(b"\0" + pixels[width * line : width * (line + 1)] for line in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"PLTE", bytes(found["colours"])), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def main(wanted: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    looks = [look for look in LOOKS if look[0] in wanted] or LOOKS
    names = set(wanted) - {look for look, _, _ in LOOKS}
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        reducer = stage.browser.page("about:blank")
        for sight in SIGHTS:
            if sight.name in names or (sight.picture and not names):
                for look, theme, phone in looks:
                    page = stage.show(sight, theme=theme, phone=phone)
                    if page.locator("main[data-topics]").count():
                        page.locator(".live.on, .live.lost").first.wait_for(state="attached")
                    tall = page.evaluate("document.documentElement.scrollHeight")
                    page.set_viewport_size({**page.viewport_size, "height": tall})  # what sticks to an edge is there
                    png = page.screenshot()
                    (FOLDER / f"{sight.name}-{look}.png").write_bytes(small(reducer, png))
                    page.close()


if __name__ == "__main__":
    main(sys.argv[1:])
