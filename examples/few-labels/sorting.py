"""Copies of images/ in a folder of each predicted class, predicted/CLASS/, and predicted/unsure/ below 80 %."""

import json
import shutil
from pathlib import Path

for found in json.loads(Path("predicted.json").read_text()):
    folder = Path("predicted", found["label"] if found["probability"] > 0.8 else "unsure")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path("images", found["path"]), folder)
for folder in sorted(Path("predicted").iterdir()):
    print(f"{folder}: {len([*folder.iterdir()])} images")
