"""CamVid with a whole sequence held out of train, the honest dial for choosing a model.

CamVid's own validation pictures are seven seconds of one street that the training pictures surround. Run
``python -m benchmarks.sequences --data ../shared/data/camvid --hold 0006R0 --to DIR``, then train with ``--data DIR``.
"""

from __future__ import annotations

import argparse
import shutil
from collections import Counter
from pathlib import Path


def hold_out(data: Path, sequence: str, to: Path) -> Counter[str]:
    """Copy CamVid's training pairs to ``to``, whole or not at all: one sequence becomes val, the others train.

    Returns:
        Pairs of each part.
    """
    counts: Counter[str] = Counter()
    begun = to.with_name(f"{to.name}.part")
    shutil.rmtree(begun, ignore_errors=True)
    for picture in sorted((data / "train" / "images").iterdir()):
        part = "val" if picture.stem.split("_")[0] == sequence else "train"
        counts[part] += 1
        mask = data / "train" / "masks" / f"{picture.stem}.png"
        for kind, source in (("images", picture), ("masks", mask)):
            target = begun / part / kind / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    if not counts["val"]:
        raise SystemExit(f"no picture belongs to the sequence {sequence!r}")
    begun.rename(to)
    return counts


def main() -> None:
    """Copy, and say how many pairs each part has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="CamVid with train/images and train/masks")
    parser.add_argument("--hold", default="0006R0", help="sequence to hold out: 0001TP, 0006R0 or 0016E5")
    parser.add_argument("--to", type=Path, required=True, help="folder to make")
    arguments = parser.parse_args()
    if arguments.to.exists():
        raise SystemExit(f"{arguments.to}: exists already; give a name that is free")
    counts = hold_out(arguments.data, arguments.hold, arguments.to)
    print(", ".join(f"{part}: {count}" for part, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
