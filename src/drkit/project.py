"""Where things are and what is allowed: drkit.toml, the state directory, and the experiments that can be named."""

from __future__ import annotations

import dataclasses
import getpass
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from drkit.errors import BadDocument
from drkit.guard import Rules

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """drkit.toml. `default_target` is used when --target is not given; it is the lab unless said otherwise."""

    default_target: str = "lab"
    reports: str = "reports"
    guard: Rules = field(default_factory=Rules)


@dataclass(frozen=True, slots=True)
class Project:
    """One directory in which drkit is used; without drkit.toml, the current one with defaults."""

    root: Path
    settings: Settings

    @property
    def home(self) -> Path:
        """State outside runs: targets, locks, labs, the register. $DRKIT_HOME, else .drkit in the project."""
        return Path(os.environ.get("DRKIT_HOME") or self.root / ".drkit").absolute()

    @property
    def reports(self) -> Path:
        return Path(os.environ.get("DRKIT_REPORTS") or self.root / self.settings.reports).absolute()

    def folders(self, kind: str) -> tuple[Path, ...]:
        """Return where files of a kind ("experiments", "dr_playbooks") are looked up: the project's own first."""
        own = self.root / kind
        return (own, shipped(kind)) if own.is_dir() and own.resolve() != shipped(kind).resolve() else (shipped(kind),)


def shipped(kind: str) -> Path:
    """Return the folder of the files that travel with drkit: in the package, or in a checkout beside it."""
    package = Path(__file__).parent
    packed = package / "_shipped" / kind
    return packed if packed.is_dir() else package.parent.parent / kind


def operator() -> str:
    """Return who is at work, as runs record it: $DRKIT_OPERATOR, else the login name and the machine's.

    It tells colleagues apart (four eyes); it is no access control.
    """
    if given := os.environ.get("DRKIT_OPERATOR", "").strip():
        return given
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = str(os.getuid())
    return f"{name}@{platform.node()}"


def find(start: Path | None = None) -> Project:
    """Return the project of a directory: the nearest one upwards with a drkit.toml, else that directory itself.

    Raises BadDocument for a drkit.toml that says something drkit does not understand.
    """
    start = (start or Path.cwd()).absolute()
    for root in (start, *start.parents):
        path = root / "drkit.toml"
        if path.is_file():
            return Project(root, _settings(path))
    return Project(start, Settings())


def _settings(path: Path) -> Settings:
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise BadDocument(f"cannot read {path}: {e}", "see docs/configuration.md for what it may say") from e
    return parse(Settings, data, str(path))


def parse(kind: type[T], data: Any, where: str) -> T:
    """Return data (as JSON or TOML gave it) as a value of a dataclass, refusing unknown keys and wrong types.

    where: the file's name, for the message. Raises BadDocument naming the key, with a guess at what was meant.
    """
    from pydantic import ValidationError  # 100 ms that `drkit --help` does not need

    try:
        value: T = _adapter(kind).validate_python(data)
    except ValidationError as e:
        raise _complaint(e.errors(), kind, where) from None
    if (key := _yes_for_a_number(data, value)) is not None:
        raise BadDocument(f"{where}: {key}: should be a number, not yes or no", "")
    return value


def _complaint(found: Sequence[Any], kind: Any, where: str) -> BadDocument:
    """Return the first thing that is wrong. An unknown key comes before a missing one: it is often its misspelling."""
    first, *others = sorted(found, key=lambda e: e["type"] not in _UNKNOWN)
    key = ".".join(str(part) for part in first["loc"]) or "the document"
    more = f" (and {len(others)} more)" if others else ""
    if first["type"] in _UNKNOWN:
        return BadDocument(f"{where}: unknown key {key}{more}", _guess(kind, first["loc"]))
    if first["type"] in ("missing", "missing_argument"):
        return BadDocument(f"{where}: {key} is missing{more}", "")
    if first["type"] == "value_error":
        return BadDocument(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{more}", "")
    message = _lower(first["msg"].removeprefix("Input should be "))
    return BadDocument(f"{where}: {key}: should be {message}, not {_shown(first['input'])}{more}", "")


_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")


def _yes_for_a_number(data: Any, value: Any) -> str | None:
    """Return the first key, if any, under which the file says true or false and a number was made of it."""
    if isinstance(data, bool):
        return "" if isinstance(value, int | float) and not isinstance(value, bool) else None
    pairs: Iterable[tuple[object, Any, Any]] = ()
    if isinstance(data, Mapping) and dataclasses.is_dataclass(value):
        pairs = ((key, inner, getattr(value, str(key))) for key, inner in data.items())
    elif isinstance(data, list | tuple) and isinstance(value, list | tuple):
        pairs = ((n, inner, value[n]) for n, inner in enumerate(data))
    for key, inner, made in pairs:
        if (under := _yes_for_a_number(inner, made)) is not None:
            return f"{key}.{under}".rstrip(".")
    return None


_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import ConfigDict, TypeAdapter

    if kind not in _adapters:
        _forbid_unknown(kind, ConfigDict(extra="forbid"))
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _forbid_unknown(kind: Any, config: Any) -> None:
    """Set the rule on a dataclass and on every dataclass inside it."""
    import typing

    if not dataclasses.is_dataclass(kind) or "__pydantic_config__" in vars(kind):
        return
    kind.__pydantic_config__ = config  # type: ignore[union-attr]  # pydantic looks there
    for hint in typing.get_type_hints(kind).values():
        for part in (hint, *typing.get_args(hint)):
            _forbid_unknown(part, config)


def _guess(kind: Any, loc: tuple[int | str, ...]) -> str:
    import difflib
    import typing

    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        hint = typing.get_type_hints(kind).get(str(part)) if dataclasses.is_dataclass(kind) else None
        kinds = [h for h in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(h)]
        if not kinds:
            return ""
        kind = kinds[0]
    known = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    close = difflib.get_close_matches(str(loc[-1]), known, 1, 0.6)
    return f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
