"""Titles, covers and clips of the generated sample: what can be read, seen and watched of an item's topic and style.

Topics choose words and hue; styles choose words, the texture of a cover and the motion of a clip. Every item also gets
noise of its own, so that content tells the topic and style but never the item's neighbours.
"""

from __future__ import annotations

import colorsys
from pathlib import Path

import av
import numpy as np
from PIL import Image

__all__ = ["STYLES", "TOPICS", "draw_clip", "draw_cover", "write_title"]

TOPICS = {
    "cooking": "noodles dumplings chili kitchen soup recipe wok breakfast",
    "football": "goal striker penalty league stadium coach corner derby",
    "pets": "kitten puppy paws leash hamster parrot whiskers vet",
    "travel": "mountain beach passport hostel island train sunset map",
    "makeup": "lipstick eyeliner blush skincare mirror palette brush glow",
    "gaming": "boss quest console speedrun loot arena pixel level",
    "music": "guitar chorus drums piano melody concert lyrics violin",
    "cars": "engine drift turbo garage wheel gearbox highway exhaust",
    "garden": "tomato compost seeds tulip greenhouse shovel orchard bees",
    "gadgets": "phone laptop battery camera charger screen headphones robot",
}
"""Topic names, which become tags, and their words."""

STYLES = {
    "funny": "hilarious prank laughing joke fails",
    "tutorial": "beginners step guide learn basics",
    "vlog": "diary morning routine today weekend",
    "review": "honest tested verdict worth compared",
    "challenge": "dare hours versus impossible survive",
}
"""Style names and their words, the same across topics."""

NOISE = """
    the a my with of in this that how when really again never always one two three best new old big little city
    night people world time story part secret finally watch look wait end start home street summer winter blue
"""
EMOJI = ("😂", "🔥", "🎉", "😱", "❤️", "👍", "🚀", "✨")
WIDTH, HEIGHT = 96, 64
CLIP_SIZE, CLIP_FRAMES, CLIP_RATE = 64, 9, 9
MOTIONS = ((1, 0), (0, 1), (1, 1), (-1, 1), (0, 0))
"""Direction in which a style's square moves; the last one stays and pulses."""


def write_title(topic: int, style: int, rng: np.random.Generator) -> str:
    """Make a title: words of topic and style among others, with commas, quotes, emoji and tags as vendors have."""
    topic_name, style_name = list(TOPICS)[topic], list(STYLES)[style]
    words = [
        *rng.choice(TOPICS[topic_name].split(), 2, replace=False),
        *rng.choice(STYLES[style_name].split(), 2, replace=False),
        *rng.choice(NOISE.split(), rng.integers(3, 7), replace=False),
    ]
    words = [str(word) for word in rng.permutation(words)]
    cut = int(rng.integers(1, len(words) - 1))
    if rng.random() < 0.5:
        words[cut - 1] += ","
    if rng.random() < 0.25:
        words[cut] = f'"{words[cut]}"'
    title = " ".join(words).capitalize()
    if rng.random() < 0.3:
        title += f" {rng.choice(EMOJI)}"
    for tag, share in ((topic_name, 0.6), (style_name, 0.5)):
        if rng.random() < share:
            title += f" # {tag}"
    return title


def draw_cover(path: Path, topic: int, style: int, rng: np.random.Generator) -> None:
    """Write a JPEG of 96 x 64: the topic's hue, textured by the style."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    period, shift = rng.uniform(9, 13), rng.uniform(0, 10)
    waves = (x, y, x + y, np.hypot(x - WIDTH / 2, y - HEIGHT / 2))
    if style < len(waves):
        texture = np.sin((waves[style] + shift) * 2 * np.pi / period)
    else:
        texture = np.sign(np.sin(x * 2 * np.pi / period)) * np.sign(np.sin(y * 2 * np.pi / period))
    pixels = _colour(topic, rng) * (0.75 + 0.25 * texture[..., None]) + rng.normal(0, 8, (HEIGHT, WIDTH, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=85)


def draw_clip(path: Path, topic: int, style: int, rng: np.random.Generator) -> None:
    """Write an mp4 of one second, 64 x 64: a square on the topic's hue, moving as the style has it."""
    ground, square = _colour(topic, rng), _colour(topic, rng, bright=False)
    place, (dx, dy), speed = rng.integers(0, CLIP_SIZE, 2), MOTIONS[style], int(rng.integers(4, 7))
    noise = rng.normal(0, 6, (CLIP_SIZE, CLIP_SIZE, 3))
    # one thread, and no version strings, so that the same seed writes the same bytes
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("mpeg4", rate=CLIP_RATE, options={"flags": "+bitexact", "threads": "1"})
        stream.width = stream.height = CLIP_SIZE
        stream.pix_fmt = "yuv420p"
        for step in range(CLIP_FRAMES):
            side = 20 if (dx, dy) != (0, 0) else 10 + 4 * abs(step % 6 - 3)
            rows = (np.arange(side) + place[1] + dy * speed * step) % CLIP_SIZE
            columns = (np.arange(side) + place[0] + dx * speed * step) % CLIP_SIZE
            pixels = np.broadcast_to(ground, noise.shape).copy()
            pixels[np.ix_(rows, columns)] = square
            frame = av.VideoFrame.from_ndarray((pixels + noise).clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _colour(topic: int, rng: np.random.Generator, *, bright: bool = True) -> np.ndarray:
    hue = topic / len(TOPICS) + rng.normal(0, 0.012) + (0.0 if bright else 0.5)
    saturation, value = rng.uniform(0.6, 0.95), rng.uniform(0.65, 0.95) * (1.0 if bright else 0.6)
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 1.0, saturation, value))
