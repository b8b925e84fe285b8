"""A user's own folder of images: read, checked, and divided where it is not.

Nothing here guesses in silence: ``Dataset.notes`` name all files that are left out, resized, converted or divided.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from regroup_lib.data.dataset import (
    SPLITS,
    DataError,
    Dataset,
    Split,
    class_notes,
    composed,
    dataset_of,
    joined_groups,
    kept_until_changed,
    rows_of,
    some_of,
    split_by_group,
)
from regroup_lib.data.images import cached_images, decode_images, in_threads, open_image
from regroup_lib.files import digest_file

logger = logging.getLogger(__name__)

OWN_FRACTIONS = {"train": 0.8, "test": 0.2}  # of a set without a test split
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
SUFFIXES = tuple(".png .jpg .jpeg .jpe .jfif .bmp .tif .tiff .webp .gif .ppm .pgm .pbm".split())
# Also pictures: they count as images that cannot be read, so that none is left out as something else.
OTHER_SUFFIXES = tuple(".avif .heic .heif .dcm .dicom .nii .jp2 .psd .svg .dng .cr2 .nef .arw .svs .ndpi .czi".split())
# Files that systems and programs put beside pictures.
DEBRIS = re.compile(
    r"[.~]|@eadir$|@recycle|@recently|@tmp$|@__thumb|#recycle$|#snapshot$|\$recycle\.bin$|__macosx$|__pycache__$|_?thumb(?:s|nails?)$"
    r"|e?h?thumbs\.db$|desktop\.ini$|lost\+found$|system volume information$",
    re.IGNORECASE,
)
# In English, Spanish, French, Portuguese, Italian, Dutch, Russian, Chinese, Japanese and Korean; German's and those of
# Scandinavia and Poland differ in the ending or by an accent alone.
_SPLITS = (
    "(?:(?P<train>train(?:ing|en|val)?|tr[äe]ning|trn|entrenamiento|entra[iî]nement|apprentissage|treino|treinamento"
    "|addestramento|allenamento|обучение|обучающая|тренировочная|训练集?|訓練集?|学習|훈련|학습)"
    "|(?P<val>val(?:id(?:ation)?)?|dev|validaci[oó]n|valida[cç][aã]o|validazione|validatie"
    "|валидация|валидационная|验证集?|検証|검증)"
    "|(?P<test>test(?:ing|en)?|tst|pruebas?|testes?|prova|тест|тестовая|测试集?|測試集?|テスト|테스트))"
)
SPLIT_NAME = re.compile(
    rf"[\W\d_]*(?:data|images?|imgs?)?[\W\d_]*{_SPLITS}"
    r"[\W\d_]*(?:(?:data)?set|s?daten|data|数据集?|データ(?:セット)?|데이터|images?|imgs?|pictures|photos|samples|split)?[\W\d_]*",
    re.IGNORECASE,
)
LOOSE_SPLIT = re.compile(rf"(?:.*[\W\d_])?{_SPLITS}(?:[\W\d_].*)?", re.IGNORECASE)
MASK = "masks?|seg|segm|segmentations?|gt|ground[ _-]?truth|labels?|annotations?|annot|overlay|contours?|roi"
NO_SPLIT = "no test split"
LAYOUT = "expected train/<class>/ with val/ and test/ where there are any, or <class>/ alone"
DEEP = "IF"  # how Pillow's modes of more than 8 bits a pixel begin
KEPT_SIZE = 128  # images of one size up to this stay as they are
ALLOW = "load with allow_missing=True (--allow-missing) to leave them out"
# Notes on pictures that were changed.
GREY = "gray, and made RGB as the others are"
TRANSPARENT = "with transparency, put on white"
TURNED = "turned upright as their camera noted"
FRAMES = "of several frames, of which the first is read"
HALVED = "of 16 bits a color, of which the upper 8 are kept"  # Pillow reads no more


@kept_until_changed(lambda folder, **_: _listed(folder)[0]["path"], maxsize=2)  # a network's size and an encoder's
def load_folder(
    folder: Path,
    *,
    cache: Path,
    image_size: int | None = None,
    allow_missing: bool = False,
    group: str | None = None,
) -> Dataset:
    """Load a folder of image files, one folder per class; `load_data` describes the options.

    Images are in ``train/<class>/...`` and, where there are any, ``val/`` and ``test/`` (or another usual name, such as
    ``Training_Set`` or ``validation``), or in ``<class>/...`` alone; also in folders below their class's and in linked
    ones. Without a test split the training images are divided 80/20, class by class, by a rule that depends on the
    images alone; copies of a picture stay together. Images that have several sizes or more than `KEPT_SIZE` pixels per
    side are refused unless ``image_size`` says what to resize them to.

    The images are gray if all are, else RGB. Pictures are turned upright as their camera noted, transparency becomes
    white, and gray values beyond 8 bits are scaled from the range that they have in the whole set to 0 to 255.
    ``metadata`` has each image's ``file`` and, where images belong together, its ``group``; ``notes`` say how often
    each of that was done, and how many images of the test split are also in the training split.
    """
    files, notes = _listed(folder)
    files["group"] = None if group is None else _named_groups(folder, files, group)
    headers = in_threads(_header, files["path"])
    sound = [header for header in headers if not header.reason]
    if not sound:
        raise DataError(f"{folder}: none of {len(headers)} images can be read; the first: {headers[0].reason}")
    shape = (*_shape(folder, sound, image_size), 1 if all(GREY in header.traits for header in sound) else 3)
    span = _range(sound)
    key = hashlib.sha256(f"{shape} {image_size}\n{span or ''}".encode())
    for name, header in zip(files["name"], headers, strict=True):
        key.update(f"{name} {header.digest}\n".encode(errors="surrogateescape"))
    kept_at = cache / f"images-{shape[0]}x{shape[1]}-{key.hexdigest()[:20]}.npz"
    images, reasons = cached_images(list(files["path"]), shape, partial(_read_picture, shape=shape, span=span), kept_at)
    reasons = np.array([header.reason or reason for header, reason in zip(headers, reasons, strict=True)], object)
    readable, bad = np.flatnonzero(reasons == ""), np.flatnonzero(reasons != "")
    if not len(readable):
        raise DataError(f"{folder}: none of {len(headers)} images can be read; the first: {reasons[0]}")
    if len(bad):
        found = f"{len(bad)} of {len(reasons)} images cannot be read"
        found += f" ({some_of(files['name'].iloc[bad])}; the first: {reasons[bad[0]]})"
        if not allow_missing:
            raise DataError(f"{folder}: {found}; mend or remove them, or {ALLOW}")
        logger.warning("%s: %s; they are left out", folder, found)
        notes.append(f"left out: {found}")
    headers = [headers[row] for row in readable]
    notes += _conversions(headers, shape, image_size, span)
    images = images[readable]
    # An encoder reads the images at a size of its own, and the division must be the same: then it is by the files.
    if image_size is None:
        digests = np.array([hashlib.sha256(image).hexdigest() for image in images])
    else:
        digests = np.array([header.digest for header in headers])
    return _divided(folder, files.iloc[readable], images, digests, notes)


def _listed(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return the image files of a folder by its layout, and notes; raise a DataError that says which layouts there are.

    The files have a path, a name below the folder, a split ("" where there is none), a class, and the tuple of folders
    below that of the class, in the order of split, class and name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist or is no folder; check the path")
    rows, ignored, debris = [], [], []
    for part, parent in (_split_folders(folder) or {"": folder}).items():
        if stray := [path.name for path in parent.iterdir() if _is_image(path)]:
            raise DataError(f"{parent}: {len(stray)} images outside of a class's folder ({some_of(stray)}); {LAYOUT}")
        debris += [path for path in parent.iterdir() if DEBRIS.match(path.name)]
        ignored += [path for path in parent.iterdir() if path.is_file() and not DEBRIS.match(path.name)]
        for class_folder in _folders(parent):
            found = sorted(_files_below(class_folder, debris))
            pictures = [path for path in found if _is_image(path)]
            ignored += [path for path in found if not _is_image(path)]
            if not pictures:
                raise DataError(f"{class_folder} has no image ({', '.join(SUFFIXES)}); remove it, or fill it")
            of = (part, composed(class_folder.name))
            rows += [
                (p, p.relative_to(folder).as_posix(), *of, p.relative_to(class_folder).parts[:-1]) for p in pictures
            ]
    files = pd.DataFrame(rows, columns=["path", "name", "part", "class", "below"], dtype=object)
    of_part = {part: set(classes) for part, classes in files.groupby("part")["class"]}
    known = of_part.get("train", of_part.get("", set()))
    if len(known) < 2:
        found = f"the class {next(iter(known))!r} alone" if known else "no class"
        raise DataError(f"{folder} has {found}, and at least two are needed; {LAYOUT}")
    for part, found in of_part.items():
        if found - known:
            alike = "; ".join(class_notes(folder, [*found, *known]))
            unknown = some_of(sorted(found - known)) + (f" ({alike})" if alike else "")
            raise DataError(f"{folder}: {part}/ has classes that train/ has not: {unknown}")
    left_out = {"files that are no images": ignored, "files and folders of a system or a program": debris}
    notes = [
        f"left out: {len(names)} {what} ({some_of(dict.fromkeys(path.name for path in names))})"
        for what, names in left_out.items()
        if names
    ]
    return files, notes + class_notes(folder, files["class"])


def _split_folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split, none where the folders are classes; refuse what looks like both."""
    inside, of_part = _folders(folder), {}
    parts = {path: _split_named(path.name, LOOSE_SPLIT) for path in inside}  # of seg_train/ and seg_test/, say
    if not len(set(parts.values()) - {None}) == len(inside) > 1:
        parts = {path: _split_named(path.name) for path in inside}
    if any(part == "train" and _folders(path) for path, part in parts.items()):
        if others := [path.name for path, part in parts.items() if part is None]:
            raise DataError(f"{folder}: {some_of(others)} beside train/; {LAYOUT}")
        for path, part in parts.items():
            if part in of_part:
                raise DataError(f"{folder}: {of_part[part].name} and {path.name} look like one split, {part}; {LAYOUT}")
            of_part[part] = path
        return {part: of_part[part] for part in SPLITS if part in of_part}
    names = {path.name for path in inside}
    splits = [path for path, part in parts.items() if part]
    suspects = splits if len({parts[path] for path in splits}) > 1 else []
    shared = _shared_folders(folder)  # of test/ and of one whose word is not known here
    suspects += [path for path in splits if shared or names & {below.name for below in _folders(path)}]
    below = [path for class_folder in inside for path in _folders(class_folder) if _split_named(path.name)]
    if len({_split_named(path.name) for path in below}) > 1:
        suspects += below
    if suspects:
        found = some_of(dict.fromkeys(path.relative_to(folder).as_posix() for path in suspects))
        raise DataError(f"{folder}: {found}: these look like splits, not like classes; {LAYOUT}")
    return {}


def _shared_folders(folder: Path) -> list[str]:
    """Return the names of the folders in each of a folder's folders; none where these differ."""
    inside = [[below.name for below in _folders(path)] for path in _folders(folder)] or [[]]
    return inside[0] if inside.count(inside[0]) == len(inside) else []


def _split_named(name: str, pattern: re.Pattern[str] = SPLIT_NAME) -> str | None:
    """Return the split that a folder of that name is, None where it is none."""
    match = pattern.fullmatch(composed(name))
    return match and match.lastgroup


def _folders(parent: Path) -> list[Path]:
    """Return the folders in a folder, in order; a link to nothing may have been one and is refused."""
    inside = [path for path in parent.iterdir() if not DEBRIS.match(path.name)]
    for path in inside:
        if path.is_symlink() and not path.exists() and not _is_image(path):
            raise DataError(f"{path} is a link to nothing; mend or remove it")
    return sorted(path for path in inside if path.is_dir())


def _files_below(folder: Path, debris: list[Path]) -> Iterator[Path]:
    """Yield the files below a folder, those of linked folders too, and add what is none of the user's to `debris`."""
    seen = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be listed ({error.strerror}); mend it, or remove it") from error

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        place = os.path.realpath(parent)
        debris += [Path(parent, name) for name in (*folders, *files) if DEBRIS.match(name)]
        # A link to a folder above would lead around for ever.
        folders[:] = [] if place in seen else [name for name in folders if not DEBRIS.match(name)]
        if place not in seen:
            yield from (Path(parent, name) for name in files if not DEBRIS.match(name))
        seen.add(place)


def _is_image(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in (*SUFFIXES, *OTHER_SUFFIXES) and not DEBRIS.match(path.name) and not path.is_dir()


def _named_groups(folder: Path, files: pd.DataFrame, group: str) -> list[str]:
    """Return the group that a folder level or a pattern gives to each file."""
    if group.isdecimal():
        level, what = int(group), f"folder on level {group} below its class's"
        found = [folders[level - 1] if 0 < level <= len(folders) else None for folders in files["below"]]
    else:
        try:
            pattern = re.compile(group)
        except re.error as error:
            raise DataError(f"group is {group!r}, no regular expression ({error}) and no level of folders") from None
        what = f"match of {group!r} in its path"
        found = [match and match[min(pattern.groups, 1)] for match in map(pattern.search, files["name"])]
    if lacking := [name for name, value in zip(files["name"], found, strict=True) if value is None]:
        raise DataError(f"{folder}: {len(lacking)} images have no {what} ({some_of(lacking)}); change group=")
    return found


def _named_after(folder: Path, files: pd.DataFrame) -> list[str]:
    """Warn of masks among the pictures, and of names and folders that pictures of one origin may share."""
    known = {(path.parent, path.stem) for path in files["path"]}
    masks, copies, origins = defaultdict(list), [], []
    for path, name, class_name in zip(files["path"], files["name"], files["class"], strict=True):
        others = [path.stem[: sign.start()] for sign in re.finditer("[ _.@(-]+", path.stem)]  # and one after a word
        others += re.findall(r"^[A-Za-z]+[ _.-]+(.+)", path.stem)
        ending = "".join(re.findall(r".[ _.-]+([A-Za-z]+)(?:[ _.\d-]*\d)?$", path.stem)).lower()
        first = re.match(rf"({MASK})[ _.-]", path.stem, re.IGNORECASE)
        inside = re.search(rf"(?:^|/)((?:[^/]*[ _.-])?(?:{MASK}))/", name, re.IGNORECASE)
        origins += re.findall(r"^(.*?\d+)[ _.-]", path.stem)
        if re.fullmatch(MASK, ending):
            masks[f"ending in _{ending}"].append((name, class_name))
        elif first or inside:
            masks[f"beginning with {first[0]}" if first else f"in folders called {inside[1]}"].append(
                (name, class_name)
            )
        elif any((path.parent, other) in known for other in others):
            copies.append(name)
    notes = []
    for how, found in masks.items():
        names, of = zip(*found, strict=True)
        where = f"in the class {of[0]} only" if len(set(of)) == 1 else f"in {len(set(of))} classes"
        found = f"{len(names)} files {how} are {where} ({some_of(names)})"
        notes.append(f"warning, {found}; they are samples here: move them out if they are masks")
    if copies:
        found = f"{len(copies)} files have the name of another one with something added"
        together = "keep altered copies together with group= (--group PATTERN)"
        notes.append(f"warning, {found} ({some_of(copies)}); {together}")
    elif len(origins) > len(known) / 2 and 3 < len(set(origins)) <= len(origins) / 2:
        found = f"names begin alike in {len(set(origins))} ways ({some_of(dict.fromkeys(origins))})"
        notes.append(f"warning, {found}; if these are patients, say, use group= (--group PATTERN)")
    if folders := sorted({name.rpartition("/")[0] for name in files["name"][files["below"].astype(bool)]}):
        found = (
            f"images lie in {len(folders)} folders below their class's and count as that class's ({some_of(folders)})"
        )
        found = "warning, " * (len(folders) > 3 * files["class"].nunique()) + found  # each may be of one patient
        notes.append(f"{found}; if the images of a folder belong together, say so with group='1' (--group 1)")
    shared = _shared_folders(folder)
    if "" in set(files["part"]) and len(shared) > 1:
        found = f"all classes have the same folders below them ({some_of(shared)})"
        notes.append(f"warning, {found}; if those are the classes, call the folders above them train and test")
    return notes


@dataclass(frozen=True)
class _Header:
    """The properties of an image file that are known before it is decoded, but for the range of deep pixels."""

    digest: str
    size: tuple[int, int] = (0, 0)  # height and width, upright
    span: tuple[float, float] | None = None  # of grey values beyond 8 bits
    traits: tuple[str, ...] = ()
    reason: str = ""


def _header(path: Path) -> _Header:
    try:
        with open_image(path, list(FORMATS)) as image:
            digest = digest_file(path)
            halved = _is_halved(image)  # before anything is decoded
            orientation = _orientation(image)
            # Pillow's size of a TIFF file is already that of the upright picture.
            swapped = orientation > 4 and image.format != "TIFF"
            size = (image.width, image.height) if swapped else (image.height, image.width)
            span = _span(image) if image.mode[0] in DEEP else None
            traits = {
                GREY: bool(span) or image.mode in ("1", "L", "LA"),
                TRANSPARENT: image.has_transparency_data,
                TURNED: orientation != 1,
                FRAMES: image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
                HALVED: halved,
            }
            return _Header(digest, size, span, tuple(trait for trait, has in traits.items() if has))
    except Exception as error:  # Pillow raises a different class for each defect
        return _Header("", reason=str(error) or type(error).__name__)


def _orientation(image: Image.Image) -> int:
    """Return how a picture is to be turned, 1 (not at all) to 8, of which other values are no more than 1."""
    try:
        found = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged note says nothing of the pixels
        return 1
    return found if found in range(1, 9) else 1


def _is_halved(image: Image.Image) -> bool:
    return image.mode[0] not in DEEP and any(re.search(";16[BLN]", str(tile[3])) for tile in image.tile)


def _span(image: Image.Image) -> tuple[float, float]:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("its pixels are not all finite numbers")
    return low, high


def _range(headers: Sequence[_Header]) -> tuple[float, float] | None:
    spans = [header.span for header in headers if header.span]
    return (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None


def gray_range(folder: Path) -> tuple[float, float] | None:
    """Return the range by which `load_folder` scales gray values beyond 8 bits; None where a folder has none."""
    return _range(in_threads(_header, _listed(folder)[0]["path"]))


def _shape(folder: Path, headers: Sequence[_Header], image_size: int | None) -> tuple[int, int]:
    """Return height and width that all images get."""
    if image_size is not None:
        return image_size, image_size
    sizes = Counter(header.size for header in headers)
    smallest, largest = (f"{width} x {height}" for height, width in (min(sizes), max(sizes)))
    choose = "choose one with image_size=64, say (--image-size 64)"
    if len(sizes) > 1:
        raise DataError(f"{folder}: images have {len(sizes)} sizes, from {smallest} to {largest} pixels; {choose}")
    (size,) = sizes
    if max(size) > KEPT_SIZE:
        raise DataError(f"{folder}: images have {largest} pixels, more than {KEPT_SIZE} a side; {choose}")
    return size


def _read_picture(path: Path, *, shape: tuple[int, int, int], span: tuple[float, float] | None) -> np.ndarray:
    height, width, channels = shape
    with open_image(path, list(FORMATS), draft=(width, height)) as file:
        halved = _is_halved(file)
        image = ImageOps.exif_transpose(file) if _orientation(file) > 1 else file
        if image.mode[0] in DEEP:
            low, high = span
            values = (np.asarray(image, np.float64) - low) * (255 / ((high - low) or 1))
            image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
        if halved and max(high for _, high in image.convert("RGB").getextrema()) < 16:
            raise ValueError(
                "its 16 bits a color hold 12 or fewer, of which too few are read; save it with 8 bits a color"
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(shape)


def _conversions(
    headers: Sequence[_Header], shape: tuple[int, int, int], image_size: int | None, span: tuple[float, float] | None
) -> list[str]:
    """Return notes on what was done to how many pictures."""
    height, width, channels = shape
    counts = Counter(trait for header in headers for trait in header.traits)
    resized = sum(header.size != (height, width) for header in headers) if image_size else 0
    found = {f"resized to {width} x {height} pixels, whatever their proportions": resized}
    found |= {trait: counts[trait] for trait in (GREY, TRANSPARENT, TURNED, FRAMES, HALVED)}
    if channels == 1:
        del found[GREY]
    if span is not None:
        scaled = f"of more than 8 bits a pixel, scaled from {span[0]:g} to {span[1]:g}, the range of all, to 0 to 255"
        found[scaled] = sum(header.span is not None for header in headers)
    return [f"{count} of {len(headers)} images {what}" for what, count in found.items() if count]


def _divided(folder: Path, files: pd.DataFrame, images: np.ndarray, digests: np.ndarray, notes: list[str]) -> Dataset:
    """Return a data set of all images, divided where the folder is not."""
    class_names = sorted(set(files["class"]))
    labels = np.searchsorted(class_names, files["class"].to_numpy(str)).astype(np.int64)
    named = files["group"].notna().all()
    groups = joined_groups(digests, files["group"].to_numpy(str)) if named else joined_groups(digests)
    notes = notes + _group_notes(folder, files, digests)
    parts = files["part"].to_numpy(str)
    if "test" not in parts:
        kept = np.isin(parts, ("", "train"))
        # Named by what the images are, so that the division does not depend on their order.
        first = dict(zip(digests[::-1].tolist(), labels[::-1].tolist(), strict=True))
        names = np.array([f"{first[digest]} {digest}" for digest in digests.tolist()])
        order = np.lexsort((names, groups))
        names = names[order][np.searchsorted(groups[order], groups)]
        parts = parts.astype("<U5")
        parts[kept] = split_by_group(labels[kept], names[kept], fractions=OWN_FRACTIONS)
        notes.append(f"{NO_SPLIT}: the training images are divided 80/20, class by class")
    rows = rows_of(parts)
    for part in ("train", "test"):
        if part not in rows:
            raise DataError(f"{folder}: the {part} split is empty, expected at least one image")
    columns = {"file": files["name"].to_numpy(str)}
    if len(np.unique(groups)) < len(groups):
        columns["group"] = groups
    digest = {"before": [np.array(class_names)], "after": [groups] if named else []}
    return dataset_of(
        folder.resolve().name, Split(images, labels), rows, class_names, columns=columns, notes=notes, **digest
    )


def _group_notes(folder: Path, files: pd.DataFrame, digests: np.ndarray) -> list[str]:
    """Return notes on copies and on groups, in the folder as it is."""
    named = files["group"].notna().all()
    notes = [] if named else _named_after(folder, files)
    tested, trained = (files["part"].to_numpy(str) == part for part in ("test", "train"))
    _, first, member, sizes = np.unique(digests, return_index=True, return_inverse=True, return_counts=True)
    classes = files["class"].to_numpy(str)
    if len(torn := np.unique(member[classes != classes[first][member]])):
        names = some_of(files["name"].iloc[first[torn]])
        notes.append(f"warning, {len(torn)} images lie in several classes, pixel for pixel ({names})")
    copied = int(np.isin(digests[tested], digests[trained]).sum())
    if copied:
        notes.append(f"{copied} images of the test split are also in the training split, pixel for pixel")
    elif len(sizes) < len(digests):
        notes.append(f"{len(digests) - len(sizes)} images repeat another one, pixel for pixel; copies stay together")
    if named:
        groups = files["group"].to_numpy(str)
        notes.append(f"group: {len(np.unique(groups))} groups of images, which stay whole")
        if len(across := np.intersect1d(groups[tested], groups[trained])):
            notes.append(f"warning, {len(across)} groups lie in the training and the test split ({some_of(across)})")
    return notes


def read_pictures(
    path: Path, shape: tuple[int, int, int], span: tuple[float, float] | None = None
) -> tuple[list[str], np.ndarray, list[str]]:
    """Return the names of an image file or of those in a folder, uint8 images [n, height, width, channels], and notes.

    A file that cannot be read raises a DataError, as does one with gray values beyond 8 bits where `span`, the range of
    those of the training images, is None. Values beyond that range become black or white, which a note says.
    """
    files = [path] if path.is_file() else sorted(file for file in _files_below(path, []) if _is_image(file))
    if not files:
        raise DataError(f"{path} holds no image files")
    headers, deep = in_threads(_header, files), "more than 8 bits a color; save it with 8"
    reasons = [header.reason or deep * (header.span is not None and span is None) for header in headers]
    if not any(reasons):
        images, reasons = decode_images(files, shape, partial(_read_picture, shape=shape, span=span))
    for file, reason in zip(files, reasons, strict=True):
        if reason:
            raise DataError(f"{file}: {reason}")
    n_beyond = sum(not span[0] <= min(h.span) <= max(h.span) <= span[1] for h in headers if h.span)
    beyond = f"{n_beyond} of {len(files)} images have gray values outside of the range of the training images"
    names = [file.name if file == path else str(file.relative_to(path)) for file in files]
    return names, images, [f"{beyond}, {span[0]:g} to {span[1]:g}"] if n_beyond else []
