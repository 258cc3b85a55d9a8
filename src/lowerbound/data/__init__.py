"""Images from a folder, an archive, an .npz or a published data set, decoded once and memory mapped."""

from lowerbound.data.base import SPLITS, Data, Opened, open_readable
from lowerbound.data.bundled import Known, names
from lowerbound.data.images import Failed, Images
from lowerbound.data.survey import summary

__all__ = ["SPLITS", "Data", "Failed", "Images", "Known", "Opened", "names", "open_readable", "summary"]
