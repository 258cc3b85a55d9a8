"""Pictures: grids of images, originals above reconstructions, the manifold of a two-dimensional latent, curves.

Images come as [N, C, H, W] with values in [0, levels - 1], whole or not, C being 1 or 3. A picture is a uint8 array,
[H, W] when grey and [H, W, 3] in colour. Every file is written under another name first and then renamed.
"""

from lowerbound.pictures.files import check_out, save_gif, save_images, save_png, save_table
from lowerbound.pictures.plots import Series, curves, lines
from lowerbound.pictures.sheets import Table, contact_sheet, grid, manifold, pairs, quantiles, rows, table_picture

__all__ = [
    "Series",
    "Table",
    "check_out",
    "contact_sheet",
    "curves",
    "grid",
    "lines",
    "manifold",
    "pairs",
    "quantiles",
    "rows",
    "save_gif",
    "save_images",
    "save_png",
    "save_table",
    "table_picture",
]
