"""Where the steps of a playbook's run stand: a pure function of its history, for player, verdict and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from drkit.model import Mark, MarkKind

Facts = Mapping[str, Any]  # survives JSON

State = Literal["pending", "begun", "waiting", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one step stands. `tries`: how often it was begun; one that was done already was never."""

    name: str
    state: State = "pending"
    facts: Facts | None = None  # None: not observed
    result: Facts = field(default_factory=dict)
    tries: int = 0
    began_ns: int | None = None
    ended_ns: int | None = None
    why: str = ""
    already: bool = False  # it was done before anything was done for it
    looked: bool = False  # it changes nothing, it only looks whether something holds
    by: str = ""  # of what people decided: who
    note: str = ""

    @property
    def done_words(self) -> str:
        """Return how it was done, in a word or three."""
        if self.looked:
            return "holds"
        return "was done already" if self.already else "done"


def standings(marks: Iterable[Mark], names: Iterable[str]) -> dict[str, Standing]:
    """Return where each step stands after these marks. Pure."""
    found = {name: Standing(name) for name in names}
    for mark in marks:
        if mark.name in found:
            found[mark.name] = after(found[mark.name], mark)
    return found


def after(now: Standing, mark: Mark) -> Standing:
    """Return where a step stands after one more mark of its name."""
    detail = mark.detail
    if mark.kind is MarkKind.ANSWER:  # of several the first one counts
        is_first = now.state == "waiting" and not now.by
        return replace(now, by=str(detail.get("by", "")), note=str(detail.get("note", ""))) if is_first else now
    if mark.kind is not MarkKind.STEP:
        return now
    match detail.get("state"):
        case "observed":
            return replace(now, facts=detail.get("facts"))
        case "begun" | "waiting" as state:
            began_ns = now.began_ns or mark.t_lo_ns
            return replace(
                now, state=state, tries=now.tries + 1, began_ns=began_ns, ended_ns=None, why="", by="", note=""
            )
        case "done" | "failed" as state:
            return replace(
                now,
                state=state,
                began_ns=now.began_ns or mark.t_lo_ns,
                ended_ns=mark.t_hi_ns,
                why=str(detail.get("why", "")),
                result=detail.get("result") or {},
                already=bool(detail.get("already")),
                looked=bool(detail.get("looked")),
            )
        case _:
            return now


def answer_of(marks: Sequence[Mark], name: str) -> Mark | None:
    """Return the answer to the question that a step asks now: the first one since it was last asked. Pure."""
    asked = max((n for n, m in enumerate(marks) if _is_waiting(m, name)), default=None)
    if asked is None:
        return None
    return next((m for m in marks[asked:] if m.kind is MarkKind.ANSWER and m.name == name), None)


def open_question(marks: Sequence[Mark], name: str) -> bool:
    """Return whether a step waits for an answer and has none. Pure."""
    last = next((m for m in reversed(marks) if m.name == name and m.kind in (MarkKind.STEP, MarkKind.ANSWER)), None)
    return last is not None and _is_waiting(last, name)


def _is_waiting(mark: Mark, name: str) -> bool:
    return mark.kind is MarkKind.STEP and mark.name == name and mark.detail.get("state") == "waiting"


def names_of(marks: Iterable[Mark]) -> tuple[str, ...]:
    """Return the steps that a history speaks of, in the order of their first marks. Pure."""
    return tuple(dict.fromkeys(m.name for m in marks if m.kind is MarkKind.STEP))


def is_playbook(marks: Iterable[Mark]) -> bool:
    """Return whether a history is of a playbook's run that came as far as its prerequisites. Pure."""
    return any(
        m.kind in (MarkKind.STEP, MarkKind.RECOVERED)
        or (m.kind is MarkKind.HYPOTHESIS and m.detail.get("when") == "prerequisite")
        for m in marks
    )


def since_resumed(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Return what the last process that played the run has written: the marks after the last RESUMED. Pure."""
    last = max((n for n, m in enumerate(marks) if m.kind is MarkKind.RESUMED), default=-1)
    return tuple(marks[last + 1 :])
