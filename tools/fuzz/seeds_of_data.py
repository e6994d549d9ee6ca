"""Seeds of pictures, label maps, data sets and recipes."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

from tools.fuzz.cases import PIPE, Content

Cases = dict[str, dict[str, Content]]


def _encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _photo(seed: int = 0, side: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _map(seed: int = 0, side: int = 8, classes: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, classes, (side, side), dtype=np.uint8))


def _announcing(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """Return a PNG whose head claims a size that its pixels do not fill."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(64))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


EPS = (  # one that says it is grey, so that no mode stops it before a program is started
    b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%BeginProlog\n%ImageData: 8 8 8 1 0 8 1 "x"\n'
    b"(../written) (w) file closefile\nshowpage\n%%EOF\n"
)
WMF = b"\xd7\xcd\xc6\x9a\x00\x00\x00\x00\x00\x00\x08\x00\x08\x00\x60\x00\x00\x00\x00\x00\x00\x00" + bytes(40)


def pictures() -> Cases:
    """Pictures: every mode that is stored, and what claims to be one."""
    photo = _photo()
    exif = Image.Exif()
    exif[0x0112] = 6
    good = {
        "ok-png": _encoded(photo),
        "ok-jpeg": _encoded(photo, "JPEG"),
        "ok-jpeg-turned": _encoded(photo, "JPEG", exif=exif),
        "ok-cmyk": _encoded(photo.convert("CMYK"), "JPEG"),
        "ok-gif-two-frames": _encoded(photo.convert("P"), "GIF", save_all=True, append_images=[_photo(1).convert("P")]),
        "ok-webp": _encoded(photo, "WEBP"),
        "ok-tiff": _encoded(photo, "TIFF"),
        "ok-bmp": _encoded(photo, "BMP"),
        "ok-16-bits": _encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)),
        "ok-transparent": _encoded(photo.convert("RGBA")),
        "ok-palette-transparent": _encoded(photo.convert("P"), transparency=3),
        "ok-grey-alpha": _encoded(photo.convert("LA")),
        "ok-one-bit": _encoded(photo.convert("1")),
        "ok-ppm": b"P6 2 1 255\n" + bytes(6),
        "ok-tga": _encoded(photo, "TGA"),
    }
    bad = {
        "bad-empty": b"",
        "bad-text": b"no picture at all, but long enough to look for a head in it",
        "bad-eps": EPS,
        "bad-wmf": WMF,
        "bad-png-claims-2e9": _announcing(1 << 30, 2),
        "bad-png-claims-huge": _announcing(60000, 60000, 8, 2),
        "bad-png-cut": _encoded(photo)[:60],
        "bad-ppm-0x0": b"P6 0 0 255\n",
        "bad-ppm-5x0": b"P6 5 0 255\n",
        "bad-bmp-0x0": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0),
        "bad-int32": _encoded(Image.new("I", (3, 3), 70000), "TIFF"),
        "bad-float-nan": _encoded(Image.fromarray(np.full((3, 3), np.nan, np.float32)), "TIFF"),
    }
    cases: Cases = {name: {"picture": data} for name, data in {**good, **bad}.items()}
    return {
        **cases,
        "bad-pipe": {"picture": PIPE},
        "bad-device": {"picture": "link /dev/zero"},
        "bad-loop": {"picture": "link picture"},
    }


def masks() -> Cases:
    """Label maps."""
    deep = np.zeros((4, 4), np.uint16)
    deep[0, 0] = 60000
    files = {
        "ok-grey": _encoded(_map()),
        "ok-palette": _encoded(_map().convert("P")),
        "ok-one-bit": _encoded(_map().convert("1")),
        "ok-16-bits": _encoded(Image.fromarray(np.ones((4, 4), np.uint16))),
        "ok-tiff": _encoded(_map(), "TIFF"),
        "ok-pgm": b"P5 2 2 255\n\x00\x01\x02\xff",
        "bad-value-60000": _encoded(Image.fromarray(deep)),
        "bad-colours": _encoded(_photo()),
        "bad-jpeg": _encoded(_map(), "JPEG"),
        "bad-eps": EPS,  # A5: Pillow hands it to Ghostscript
        "bad-eps-preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS,
        "bad-wmf": WMF,
        "bad-claims-huge": _announcing(60000, 60000),
        "bad-negative": _encoded(Image.new("I", (3, 3), -5), "TIFF"),
        "bad-0x0": b"P5 0 0 255\n",
        "bad-empty": b"",
    }
    cases: Cases = {name: {"mask": data} for name, data in files.items()}
    return {**cases, "bad-pipe": {"mask": PIPE}, "bad-device": {"mask": "link /dev/zero"}}


SQUARE = [1, 1, 6, 1, 6, 6, 1, 6]


def _coco(**changes: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "width": 8, "height": 8},
            {"id": 2, "file_name": "b.png", "width": 8, "height": 8},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 25.0, "segmentation": [SQUARE]},
            {
                "id": 2,
                "image_id": 2,
                "category_id": 2,
                "iscrowd": 1,
                "area": 10,
                "segmentation": {"counts": [10, 20, 34], "size": [8, 8]},
            },
        ],
    } | changes


def _one(segmentation: Any, **changes: Any) -> list[dict[str, Any]]:
    return [{"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 9.0, "segmentation": segmentation} | changes]


def coco() -> Cases:
    """COCO files and the other layouts of pictures with label maps."""
    entry = {"id": 1, "width": 8, "height": 8}
    texts: dict[str, Any] = {
        "ok-plain": _coco(),
        "ok-no-annotation": _coco(annotations=[]),
        "bad-doubled-picture": _coco(images=[entry | {"file_name": "a.png"}, entry | {"id": 2, "file_name": "a.png"}]),  # B2
        "bad-doubled-image-id": _coco(images=[entry | {"file_name": "a.png"}, entry | {"file_name": "b.png"}]),
        "bad-doubled-category": _coco(categories=[{"id": 1, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "cow"}]),
        "bad-crowd-text": _coco(annotations=_one([SQUARE], iscrowd="0")),
        "bad-polygon-nan": _coco(annotations=_one([[float("nan")] * 6])),
        "bad-polygon-infinite": json.dumps(_coco(annotations=_one([["@", 1, 2, 3, 4, 5]]))).replace('"@"', "1e400"),
        "bad-polygon-text": _coco(annotations=_one([["1", "2", "3", "4", "5", "6"]])),
        "bad-polygon-nested": _coco(annotations=_one([[[1], [2], [3], [4], [5], [6]]])),
        "bad-polygon-true": _coco(annotations=_one(True)),
        "bad-runs-text": _coco(annotations=_one({"counts": ["1", "63"], "size": [8, 8]})),
        "bad-runs-nested": _coco(annotations=_one({"counts": [[1, 63]], "size": [8, 8]})),
        "bad-runs-negative": _coco(annotations=_one({"counts": [-1, 65], "size": [8, 8]})),
        "bad-runs-huge": _coco(annotations=_one({"counts": [2**62, 2**62], "size": [2**31, 2**32]})),
        "ok-runs-compressed": _coco(annotations=_one({"counts": ":d0R1", "size": [8, 8]})),
        "bad-runs-compressed-long": _coco(annotations=_one({"counts": "o" * 3000, "size": [8, 8]})),
        "bad-runs-compressed-negative": _coco(annotations=_one({"counts": ":d0R1@R2", "size": [8, 8]})),
        "bad-runs-compressed": _coco(annotations=_one({"counts": "`09", "size": [8, 8]})),
        "bad-id-infinite": json.dumps(_coco(categories=[{"id": "@", "name": "cat"}])).replace('"@"', "1e400"),
        "bad-id-900000-digits": json.dumps(_coco(annotations=_one([SQUARE], image_id="@"))).replace('"@"', "9" * 9000),
        "bad-area-nan": _coco(annotations=_one([SQUARE], area=float("nan"))),
        "bad-name-number": _coco(images=[entry | {"file_name": 7}]),
        "bad-name-long": _coco(images=[entry | {"file_name": "x" * 3000}]),
        "bad-name-outside": _coco(images=[entry | {"file_name": "../../../etc/passwd"}]),
        "bad-not-coco": [1, 2],
        "bad-deep": "[" * 3000 + "]" * 3000,
        "bad-nothing": {},
    }
    photos: dict[str, Content] = {f"images/{name}.png": _encoded(_photo(seed)) for seed, name in enumerate("ab")}
    cases: Cases = {
        name: {**photos, "annotations.json": (value if isinstance(value, str) else json.dumps(value)).encode()}
        for name, value in texts.items()
    }
    inside = json.dumps(_coco(images=[entry | {"file_name": "a.png"}], annotations=_one([SQUARE]))).encode()
    same: dict[str, Content] = {f"{part}/a.png": _encoded(_photo(seed)) for seed, part in enumerate(("train", "val"))}
    cases["any-same-name-in-two-parts"] = {
        **same,
        "annotations/instances_train.json": inside,
        "annotations/instances_val.json": inside,
    }  # B1
    pairs: dict[str, Content] = {"images/a.png": _encoded(_photo()), "masks/a.png": _encoded(_map())}
    cases |= {
        "ok-pairs": {**pairs, "classes.txt": b"sky\nroad\ncar\n"},
        "bad-two-pictures-a-mask": {**pairs, "images/a.jpg": _encoded(_photo(1), "JPEG")},  # B3
        "bad-mask-eps": {**pairs, "masks/a.png": EPS},
        "bad-mask-pipe": {**pairs, "masks/a.png": PIPE},
        "bad-annotations-pipe": {**photos, "annotations.json": PIPE},
        "bad-annotations-loop": {**photos, "annotations.json": "link annotations.json"},
        "any-classes-with-escapes": {**pairs, "classes.txt": b"=cmd()\n\x1b[2J\nvoid\nvoid\n"},
        "bad-classes-no-text": {**pairs, "classes.txt": b"\xff\xfe\x00"},
        "ok-cityscapes": {
            "leftImg8bit/train/x/x_0_0_leftImg8bit.png": _encoded(_photo()),
            "gtFine/train/x/x_0_0_gtFine_labelTrainIds.png": _encoded(_map()),
        },
    }
    return cases


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def tables() -> Cases:
    """Data sets: folders of classes, tables, lists, zips; what evaluation reads beside them."""
    names = ("ants/0.png", "ants/1.png", "bees/2.png", "bees/3.png")  # distinct, as ReaL's order by name asks for
    photos: dict[str, Content] = {name: _encoded(_photo(number)) for number, name in enumerate(names)}
    plain: dict[str, bytes] = {name: data for name, data in photos.items() if isinstance(data, bytes)}
    rows = "file_name,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in photos)
    groups = "file,group\n" + "".join(f"{name},{number % 2}\n" for number, name in enumerate(photos))
    cases: Cases = {
        "ok-folders": dict(photos),
        "ok-groups-and-real": {**photos, "groups.csv": groups.encode(), "real.json": b"[[0], [1], [0, 1], []]"},
        "ok-table": {**photos, "labels.csv": rows.encode()},
        "ok-metadata": {**photos, "metadata.csv": rows.encode()},
        "ok-zip": {"data.zip": _zip(plain)},
        "bad-lines-infinite": {**photos, "metadata.jsonl": b'{"file_name": "ants/0.png", "label": 1e400}\n'},
        "bad-table-no-text": {**photos, "labels.csv": b"file_name,label\nants/0.png,\xff\n"},
        "bad-table-null": {**photos, "labels.csv": b'file_name,label\nants/0.png,\x00\n"\n'},
        "bad-table-outside": {**photos, "labels.csv": b"file_name,label\n../../../etc/passwd,a\n/dev/zero,b\n"},
        "bad-table-pipe": {**photos, "labels.csv": PIPE},
        "bad-real-infinite": {**photos, "real.json": b"[[1e400], [], [], []]"},
        "bad-real-digits": {**photos, "real.json": b"[[" + b"9" * 9000 + b"], [], [], []]"},
        "bad-real-true": {**photos, "real.json": b"[[true], [], [], []]"},
        "bad-groups-pipe": {**photos, "groups.csv": PIPE},
        "bad-zip-outside": {"data.zip": _zip({"../a/0.png": plain["ants/0.png"]})},
        "bad-zip-cut": {"data.zip": _zip(plain)[:-30]},
        "bad-list-outside": {"train_map.txt": b"../../../etc/passwd\t0\n", "val_map.txt": b"a\t-1\n"},
        "any-picture-pipe": {**photos, "ants/9.png": PIPE},
        "any-picture-eps": {**photos, "ants/9.png": EPS},
        "any-predictions": {
            "images/a.png": _encoded(_photo()),
            "masks/a.png": _encoded(_map()),
            "classes.txt": b"a\nb\nc\n",
            "predictions/a.png": _encoded(_map(1)),
        },
        "bad-predictions-eps": {
            "images/a.png": _encoded(_photo()),
            "masks/a.png": _encoded(_map()),
            "classes.txt": b"a\nb\nc\n",
            "predictions/a.png": EPS,
        },
    }
    return cases


def recipes() -> Cases:
    """Recipes, with what ``--set`` says in set.txt."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(f'*{old}' for _ in range(9))}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    good = "task: classify\nepochs: 30\noptimiser:\n  learning_rate: 1e-4\nschedule: {warmup_epochs: 5, kind: cosine}\n"
    files = {
        "ok-plain": (good, "seed=3\naugment.mixup=0"),
        "ok-empty-table": ("{}", ""),
        "bad-alias-bomb": (bomb, ""),  # C3: was printed whole
        "bad-alias-bomb-in-value": (bomb + "epochs: *i\n", ""),
        "bad-set-alias-bomb": (good, "epochs={" + ", ".join(bomb.strip().split("\n")) + "}"),
        "bad-alias-of-itself": ("epochs: &a [*a]\n", ""),
        "bad-crop": (good, "scene.crop=[0,-5]"),
        "bad-betas": (good, "optimiser.betas=[.nan,0.9]"),
        "bad-betas-text": (good, "optimiser.betas=[nan,0.9]"),
        "bad-eps": (good, "optimiser.eps=.inf"),
        "bad-eps-text": (good, "optimiser.eps=inf"),
        "bad-box": (good, "test.box=[-1,-1]"),
        "any-data-outside": (good, "data.train=../../../etc"),
        "any-data-absolute": (good, "data.val=/etc"),
        "bad-number-1e999": (good, "augment.magnitude_std=1e999"),
        "bad-digits": (good, "epochs=" + "9" * 9000),
        "bad-python": ("epochs: !!python/object/apply:os.system [touch x]\n", ""),
        "bad-list": ("- 1\n- 2\n", ""),
        "bad-deep": ("[" * 3000, ""),
        "bad-set-deep": (good, "epochs=" + "{a: " * 3000),
        "bad-set-nothing": (good, "epochs"),
        "bad-set-below-value": (good, "epochs.x.y=1"),
        "bad-key-number": ("1: 2\n", ""),
        "bad-key-list": ("? [a, b]\n: 1\n", ""),
        "bad-merge": ("<<: [1]\n", ""),
        "bad-date": ("epochs: 2026-13-45\n", ""),
    }
    cases: Cases = {name: {"recipe.yaml": text.encode(), "set.txt": changes.encode()} for name, (text, changes) in files.items()}
    cases |= {"bad-no-text": {"recipe.yaml": b"\xff\xfe\x00"}, "bad-pipe": {"recipe.yaml": PIPE}}
    return cases
