"""Pictures one after another, as a file."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image


def gif(frames: Sequence[np.ndarray], milliseconds: int) -> bytes:
    """The bytes of a film of pictures, uint8 [H, W, C] each, enlarged so that they are seen."""
    scale = max(1, round(256 / max(frames[0].shape[:2])))
    pictures = [Image.fromarray(np.ascontiguousarray(f[..., 0] if f.shape[-1] == 1 else f)) for f in frames]
    kind = Image.Resampling.NEAREST if max(frames[0].shape[:2]) < 48 else Image.Resampling.BICUBIC
    pictures = [p.resize((p.width * scale, p.height * scale), kind) for p in pictures]
    file = io.BytesIO()
    pictures[0].save(file, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0)
    return file.getvalue()
