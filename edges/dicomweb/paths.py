"""What a request is about, by its path (PS3.18 section 9 to 11)."""

import enum
import functools
import re
from dataclasses import dataclass
from urllib.parse import unquote

PREFIX = "/dicom-web"
"""Before the paths of the standard; where OHIF and Orthanc have it."""

MOST_FRAMES = 10_000
"""Most frames that one request names."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_UID_CHARACTERS = 64
_TAG = re.compile(r"[0-9A-F]{8}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
_NUMBER = re.compile(r"[1-9][0-9]{0,6}")


class What(enum.Enum):
    """What of a study is asked for."""

    SEARCH = "search"
    OBJECTS = "objects"
    METADATA = "metadata"
    FRAMES = "frames"
    BULK = "bulkdata"
    RENDERED = "rendered"
    THUMBNAIL = "thumbnail"


class Level(enum.IntEnum):
    """What a search lists, and how far down a path goes."""

    STUDY = 1
    SERIES = 2
    INSTANCE = 3


class NotFound(Exception):
    """There is nothing of this path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What a request is about.

    Attributes:
        what: what of it.
        level: of a search, what it lists; else the lowest that is named.
        study, series, instance: UIDs; "" where none is named.
        frames: their numbers, from 1; of `RENDERED` and `THUMBNAIL` one, or none for the first.
        place: of bulk data: tags, and between them numbers of items, from 0.
    """

    what: What
    level: Level
    study: str = ""
    series: str = ""
    instance: str = ""
    frames: tuple[int, ...] = ()
    place: tuple[str, ...] = ()


_LISTS = {"studies": Level.STUDY, "series": Level.SERIES, "instances": Level.INSTANCE}


def read_path(path: str) -> Resource:
    """What a path names; the path is as in the request, percent-encoded.

    Raises:
        NotFound: it names nothing.
    """
    if not path.startswith(f"{PREFIX}/"):
        raise NotFound
    parts = [unquote(part) for part in path[len(PREFIX) + 1 :].removesuffix("/").split("/")]
    uids: dict[Level, str] = {}
    while len(parts) > 1 and parts[0] in _LISTS:
        level = _LISTS[parts[0]]
        if level != len(uids) + 1 or parts[1] in _LISTS:
            break
        if not is_uid(parts[1]):
            raise NotFound
        uids[level] = parts[1]
        del parts[:2]
        if not parts:
            break
    study, series, instance = (uids.get(level, "") for level in Level)
    lowest = Level(max(len(uids), 1))
    named = functools.partial(Resource, study=study, series=series, instance=instance)
    match parts:
        case [] if uids:
            return named(what=What.OBJECTS, level=lowest)
        case [word] if word in _LISTS and _LISTS[word] > len(uids):
            return named(what=What.SEARCH, level=_LISTS[word])
        case ["metadata"] if uids:
            return named(what=What.METADATA, level=lowest)
        case ["rendered" | "thumbnail" as word] if uids:
            return named(what=What(word), level=lowest)
        case ["frames", listed] if lowest is Level.INSTANCE:
            return named(what=What.FRAMES, level=lowest, frames=_frames(listed))
        case ["frames", listed, "rendered" | "thumbnail" as word] if lowest is Level.INSTANCE:
            frames = _frames(listed)
            if len(frames) == 1:
                return named(what=What(word), level=lowest, frames=frames)
        case ["bulkdata", *place] if lowest is Level.INSTANCE and _is_place(place):
            return named(what=What.BULK, level=lowest, place=tuple(place))
    raise NotFound


def is_uid(text: str) -> bool:
    """Whether a text is a UID, also one that the standard would not allow (PS3.5 section 9.1)."""
    return len(text) <= _UID_CHARACTERS and _UID.fullmatch(text) is not None


def _frames(listed: str) -> tuple[int, ...]:
    numbers = listed.split(",")
    if len(numbers) > MOST_FRAMES or not all(_NUMBER.fullmatch(one) for one in numbers):
        raise NotFound
    return tuple(map(int, numbers))


def _is_place(parts: list[str]) -> bool:
    return (
        len(parts) % 2 == 1
        and len(parts) < 64
        and all(
            (_INDEX if number % 2 else _TAG).fullmatch(part) for number, part in enumerate(parts)
        )
    )
