"""Reads texts and images of the few instances that ``advise`` shows."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._engine.text_tables import in_one_line
from .inputs import load_array, reading

MAX_CHARACTERS = 240  # of a text
THUMBNAIL = 96  # pixels of the longer side
TEXTS_HELP = (
    ".txt or .tsv with a line per instance (with DOCUMENTS: query, tab, document), or .jsonl with the keys query and "
    "document; shown in the page"
)
IMAGES_HELP = ".npy uint8 [N, H, W] or [N, H, W, 3], or .txt with the path of an image per line; shown in the page"


class Text(NamedTuple):
    query: str
    document: str | None  # None without DOCUMENTS


class Texts:
    """The texts of all instances, in a file that is read line by line. Errors name ``--texts``.

    num_repeated: instances whose query or document is that of an earlier one.
    """

    def __init__(self, path: str, num_instances: int, *, has_documents: bool) -> None:
        """Reads the file once to check it."""
        if Path(path).suffix.lower() not in (".txt", ".tsv", ".jsonl"):
            raise ValueError(f"--texts: expected a .txt, .tsv or .jsonl file, got {path!r}")
        self._path, self._has_documents = path, has_documents
        count = self.num_repeated = 0
        seen: set[int] = set()
        for text in self._all():
            hashes = {hash(part) for part in text._asdict().items() if part[1] is not None}
            self.num_repeated += not seen.isdisjoint(hashes)
            seen |= hashes
            count += 1
        if count != num_instances:
            raise ValueError(f"--texts: expected a line for each of {num_instances} instances, got {count} in {path!r}")

    def of(self, instances: Collection[int]) -> dict[int, Text]:
        """Returns short forms of the texts of some instances."""
        return {
            instance: Text(short(text.query), None if text.document is None else short(text.document))
            for instance, text in enumerate(self._all())
            if instance in instances
        }

    def _all(self) -> Iterator[Text]:
        is_json = Path(self._path).suffix.lower() == ".jsonl"
        for number, line in enumerate(_lines(self._path, "--texts"), start=1):
            yield self._from_json(line, number) if is_json else self._from_columns(line, number)

    def _from_columns(self, line: str, number: int) -> Text:
        if not self._has_documents:
            return Text(line, None)
        columns = line.split("\t")
        if len(columns) != 2:
            raise ValueError(
                f"--texts: expected a query, a tab and a document, got {len(columns)} columns in line {number} of "
                f"{self._path!r}"
            )
        return Text(*columns)

    def _from_json(self, line: str, number: int) -> Text:
        keys = ["query", "document"] if self._has_documents else ["query"]
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in keys):
            raise ValueError(
                f"--texts: expected JSON with the texts {' and '.join(keys)}, got {line[:40]!r} in line {number} of "
                f"{self._path!r}"
            )
        return Text(content["query"], content["document"] if self._has_documents else None)


class Images:
    """The images of all instances. Only those that are shown are read. Errors name ``--images``."""

    def __init__(self, path: str, num_instances: int) -> None:
        if importlib.util.find_spec("PIL") is None:
            raise ModuleNotFoundError(
                "--images: expected Pillow to be installed, got none; run pip install 'batchsampler_ext[cli]'"
            )
        self._array, self._files = None, None
        suffix = Path(path).suffix.lower()
        if suffix == ".npy":
            self._array = load_array(path, "--images", "array of images", mmap_mode="r")
            shape, dtype = self._array.shape, self._array.dtype
            if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)) or 0 in shape[1:]:
                raise ValueError(
                    f"--images: expected uint8 [N, H, W] or [N, H, W, 3], got {dtype} {list(shape)} in {path!r}"
                )
            count = len(self._array)
        elif suffix == ".txt":
            self._files = [Path(path).parent / line for line in _lines(path, "--images")]
            for number, file in enumerate(self._files, start=1):
                if not file.is_file():
                    raise ValueError(
                        f"--images: expected files, got none at {str(file)!r} in line {number} of {path!r}"
                    )
            count = len(self._files)
        else:
            raise ValueError(f"--images: expected a .npy or .txt file, got {path!r}")
        if count != num_instances:
            raise ValueError(f"--images: expected an image for each of {num_instances} instances, got {count}")
        self._thumbnail_of(0)  # files of another kind are an error before the work

    def of(self, instances: Collection[int]) -> tuple[dict[int, bytes], list[str]]:
        """Returns thumbnails of some instances, as JPEG files, and a sentence for each that cannot be read."""
        found, problems = {}, []
        for instance in sorted(instances):
            try:
                found[instance] = self._thumbnail_of(instance)
            except ValueError as error:
                problems.append(str(error))
        return found, problems

    def _thumbnail_of(self, instance: int) -> bytes:
        """Paths are relative to the folder of the list."""
        from PIL import Image

        if self._array is not None:
            return _thumbnail(Image.fromarray(np.ascontiguousarray(self._array[instance])))
        assert self._files is not None
        file = self._files[instance]
        with reading(str(file), f"--images, line {instance + 1}", "an image"), Image.open(file) as image:
            return _thumbnail(image)


def _thumbnail(image: object) -> bytes:
    from PIL import Image, ImageOps

    assert isinstance(image, Image.Image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):  # more than 8 bits, which conversion to RGB would cut
        values = np.nan_to_num(np.asarray(upright, np.float32))
        upright = Image.fromarray((255 * (values - values.min()) / max(np.ptp(values), 1e-30)).astype(np.uint8))
    is_transparent = upright.mode.upper().endswith("A") or "transparency" in upright.info
    upright = upright.convert("RGBA" if is_transparent else "RGB")
    upright.thumbnail((THUMBNAIL, THUMBNAIL))
    if is_transparent:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright).convert("RGB")
    file = io.BytesIO()
    upright.save(file, "JPEG", quality=90)
    return file.getvalue()


def short(text: str) -> str:
    """Returns the text in one line, cut at MAX_CHARACTERS. Characters that cannot be shown become spaces."""
    words = in_one_line(text) or "(no text)"
    return words if len(words) <= MAX_CHARACTERS else words[: MAX_CHARACTERS - 1].rstrip() + "…"


def _lines(path: str, name: str) -> Iterator[str]:
    """Yields the lines of a file in UTF-8, without their ends."""
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{name}: expected a readable file, got {path!r} ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected text in UTF-8, got {path!r} ({error})") from None
