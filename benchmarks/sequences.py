"""CamVid with a whole sequence held out of train, the honest dial for choosing a model.

CamVid's own validation pictures are seven seconds of one street that the training pictures surround. Run
``python -m benchmarks.sequences --data ../shared/data/camvid --hold 0006R0 --to DIR``, then train with ``--data DIR``.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from pathlib import Path


def main() -> None:
    """Copy the training pairs into two parts by sequence, and say how many each has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CamVid with train/images and train/masks")
    parser.add_argument("--hold", default="0006R0", help="sequence to hold out: 0001TP, 0006R0 or 0016E5")
    parser.add_argument("--to", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    if arguments.to.exists():
        raise SystemExit(f"{arguments.to}: exists already; give a name that is free")
    counts: Counter[str] = Counter()
    for picture in sorted((arguments.data / "train" / "images").iterdir()):
        part = "val" if picture.stem.split("_")[0] == arguments.hold else "train"
        counts[part] += 1
        mask = arguments.data / "train" / "masks" / f"{picture.stem}.png"
        for kind, source in (("images", picture), ("masks", mask)):
            target = arguments.to / part / kind / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if not counts["val"]:
        raise SystemExit(f"no picture belongs to the sequence {arguments.hold!r}")
    print(", ".join(f"{part}: {count}" for part, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
