"""check-data: broken, doubled, leaked, odd; near pairs against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swinkit.data.check import check_data, near_pairs, summary


def _photo(seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((90, 80), Image.Resampling.BICUBIC)


def _folder(root: Path, count: int = 4) -> Path:
    for p, part in enumerate(("train", "val")):
        for c, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for n in range(count):
                _photo(1000 * p + 100 * c + n).save(root / part / name / f"{n}.png")
    return root


def test_a_clean_folder_has_nothing_fatal(tmp_path: Path) -> None:
    seen = []
    report = check_data(_folder(tmp_path), lambda done, total: seen.append((done, total)))
    assert report.fatal == []
    assert report.counts == {"train": {"cat": 4, "dog": 4}, "val": {"cat": 4, "dog": 4}}
    assert seen[-1] == (16, 16)
    assert any("only 4 pictures" in warning for warning in report.warnings)
    assert report.exact_duplicates == report.near_duplicates == []


def test_broken_doubled_leaked_and_odd_files_are_named(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    (root / "train" / "cat" / "cut.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes()[:300])
    _photo(1).save(root / "train" / "dog" / "twin.bmp")  # the same pixels as train/cat/1.png, another format
    _photo(2).save(root / "val" / "dog" / "leak.jpg", quality=90)  # nearly train/cat/2.png
    (root / "train" / "notes.txt").write_text("hello")
    report = check_data(root)
    assert len(report.broken) == 1
    assert "cut.png" in report.fatal[0]
    assert [sorted(Path(n).name for n in group) for group in report.exact_duplicates] == [["1.png", "twin.bmp"]]
    assert any({Path(a).name, Path(b).name} == {"2.png", "leak.jpg"} for a, b, _ in report.near_duplicates)
    assert any("two parts" in warning and "leak.jpg" in warning for warning in report.warnings)
    assert report.skipped == {".txt": 1}
    assert any(line.startswith("FATAL") for line in summary(report))
    assert report.to_dict()["broken"] == report.broken


def test_other_classes_and_lonely_pictures_are_fatal(tmp_path: Path) -> None:
    root = _folder(tmp_path, count=1)
    (root / "val" / "dog").rename(root / "val" / "wolf")
    report = check_data(root)
    assert any("other classes" in text and "'dog'" in text for text in report.fatal)
    assert any("has 1 picture" in text for text in report.fatal)


def test_a_gif_among_photographs_is_suspicious(shared: Path) -> None:
    report = check_data(shared / "data" / "hymenoptera")
    assert any("imageNotFound.gif" in warning for warning in report.warnings)
    assert report.fatal == []


@given(st.integers(0, 40), st.integers(0, 31), st.integers(0, 10**6))
def test_near_pairs_equal_brute_force(count: int, limit: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 256, (count, 32), dtype=np.uint8)
    for i in range(1, count, 2):  # half of them near their neighbour
        hashes[i] = hashes[i - 1]
        for bit in rng.integers(0, 256, rng.integers(0, 40)):
            hashes[i, bit // 8] ^= 1 << (bit % 8)
    expected = [
        (i, j, int(np.unpackbits(hashes[i] ^ hashes[j]).sum()))
        for i in range(count)
        for j in range(i + 1, count)
        if np.unpackbits(hashes[i] ^ hashes[j]).sum() <= limit
    ]
    assert near_pairs(hashes, limit) == expected
