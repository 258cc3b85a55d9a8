"""Images with known factors of variation, rendered by the library itself: sprites and scenes."""
