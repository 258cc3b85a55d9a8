"""Images from a folder, an archive, an .npz or a published data set, decoded once and memory mapped."""

from lowerbound.data.base import SPLITS, Data, Images, Opened, open_images, open_readable
from lowerbound.data.bundled import Known, names
from lowerbound.data.survey import summary

__all__ = ["SPLITS", "Data", "Images", "Known", "Opened", "names", "open_images", "open_readable", "summary"]
