"""What an entry of the history says, as a sentence instead of its keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drkit.model import Mark, MarkKind, type_json
from drkit.report import numbers

_LONGEST = 1200  # characters; only an activity's raw output is ever as long

_BOOT = ("boot_id", "wall_minus_monotonic_ns")  # for the verdict, which says it if the machine was restarted

_Told = tuple[str, tuple[str, ...]]  # a sentence, and which keys of the detail it has used up


def sentence(mark: Mark) -> str:
    """Return what a mark says beyond its kind and name; "" if that is all. What has no words of its own is listed."""
    told, used = _WORDS.get(mark.kind, _why)(mark.detail)
    rest = {k: v for k, v in mark.detail.items() if k not in used}
    return numbers.short("; ".join(part for part in (told, numbers.words(rest)) if part), _LONGEST)


def _started(detail: Mapping[str, type_json]) -> _Told:
    number = detail.get("number")  # the hash of run.json binds the history to it, and is no news for a reader
    return (f"run no. {numbers.words(number)}" if number is not None else ""), ("number", "run_json_sha256", *_BOOT)


def _activity(detail: Mapping[str, type_json]) -> _Told:
    """Return an entry of Chaos Toolkit's journal: what was called, how it ended, what it answered."""
    entry = detail.get("entry")
    return (_entry(entry), ("entry",)) if isinstance(entry, Mapping) else ("", ())


def _hypothesis(detail: Mapping[str, type_json]) -> _Told:
    moments = {"before": "before the fault", "after": "after the recovery", "prerequisite": "as a prerequisite"}
    when = moments.get(str(detail.get("when")), "")
    held = {True: "held", False: "DID NOT HOLD"}.get(detail.get("held", ""), "")
    said = " ".join(part for part in (held, when) if part)
    why = "" if detail.get("held") is True else numbers.words(detail.get("why", ""))
    return ": ".join(part for part in (said, why) if part), ("when", "held", "why", "entry")


def _effective(detail: Mapping[str, type_json]) -> _Told:
    fault = detail.get("fault")
    return (f"shows that {numbers.words(fault)} took effect" if fault else ""), ("fault",)


def _undone(detail: Mapping[str, type_json]) -> _Told:
    said = numbers.words(detail.get("sentence", detail.get("message", "")))
    failed = "FAILED: " if detail.get("ok") is False else ""
    number = f" (undo record {detail['seq']})" if "seq" in detail else ""
    return f"{failed}{said}{number}".strip(), ("ok", "sentence", "message", "seq")


def _event(detail: Mapping[str, type_json]) -> _Told:
    source = numbers.words(detail.get("source", ""))
    by = f"said by {source.upper() if source == 'rds' else source}" if source else ""
    message = numbers.words(detail.get("message", ""))
    return ", ".join(part for part in (message, by) if part), ("source", "message")


def _step(detail: Mapping[str, type_json]) -> _Told:
    """Return where a step stands from then on."""
    state = numbers.words(detail.get("state", ""))
    said = {"waiting": "waits for an answer", "observed": f"observed {numbers.words(detail.get('facts') or {})}"}
    told = said.get(state, state) + (", without anything to do" if detail.get("already") else "")
    result, why = detail.get("result"), numbers.words(detail.get("why", ""))
    more = numbers.words(result) if result else why
    return ": ".join(part for part in (told, more) if part), ("state", "facts", "already", "result", "why")


def _answer(detail: Mapping[str, type_json]) -> _Told:
    said = f"{numbers.words(detail.get('by', ''))} said {'yes' if detail.get('yes') is True else 'no'}"
    note = numbers.words(detail.get("note", ""))
    return ": ".join(part for part in (said, note) if part), ("by", "yes", "note")


def _impact(detail: Mapping[str, type_json]) -> _Told:
    since = numbers.to_the_second(str(detail.get("since", "")))
    return (f"said that the service is down since {since}" if since else ""), ("since",)


def _resumed(detail: Mapping[str, type_json]) -> _Told:
    told, used = _why(detail)
    return "; ".join(part for part in ("went on with the run", told) if part), (*used, *_BOOT)


def _point(detail: Mapping[str, type_json]) -> _Told:
    at = numbers.to_the_second(str(detail.get("at", "")))
    return (f"what was written until {at} is there" if at else ""), ("at",)


def _why(detail: Mapping[str, type_json]) -> _Told:
    by = f"by {numbers.words(detail['by'])}" if detail.get("by") else ""
    why = numbers.words(detail.get("why", detail.get("message", "")))
    return ": ".join(part for part in (by, why) if part), ("by", "why", "message")


_WORDS: Mapping[MarkKind, Callable[[Mapping[str, type_json]], _Told]] = {
    MarkKind.RUN_STARTED: _started,
    MarkKind.ACTIVITY: _activity,
    MarkKind.HYPOTHESIS: _hypothesis,
    MarkKind.FAULT_EFFECTIVE: _effective,
    MarkKind.UNDO: _undone,
    MarkKind.EVENT: _event,
    MarkKind.STEP: _step,
    MarkKind.ANSWER: _answer,
    MarkKind.IMPACT: _impact,
    MarkKind.RESUMED: _resumed,
    MarkKind.RECOVERY_POINT: _point,
}


def _entry(entry: Mapping[str, type_json]) -> str:
    status, took_s = numbers.words(entry.get("status", "")), entry.get("duration")
    took = f" after {numbers.seconds(took_s)}" if isinstance(took_s, int | float) else ""
    return "; ".join(
        part
        for part in (
            f"{_called(entry.get('activity'))}: {status}{took}",
            _answered(entry.get("output")),
            _raised(entry.get("exception")),
        )
        if part
    )


def _called(activity: type_json) -> str:
    provider = activity.get("provider") if isinstance(activity, Mapping) else None
    if not isinstance(provider, Mapping):
        return "activity"
    arguments = provider.get("arguments")
    given = f" with {numbers.words(arguments)}" if arguments else ""
    match provider.get("type"):
        case "python":
            what = f"{provider.get('module')}.{provider.get('func')}"
        case "http":
            what = f"{provider.get('method', 'GET')} {provider.get('url')}"
        case _:
            what = numbers.words(provider.get("path", provider.get("type", "")))
    return f"{what}{given}"


def _answered(output: type_json) -> str:
    if not isinstance(output, Mapping):
        return "" if output is None else f"answered {numbers.words(output)}"
    hit = output.get("hit")
    rest = {k: v for k, v in output.items() if k != "hit"} if isinstance(hit, list | tuple) else output
    told = [f"hit {numbers.words(hit) or 'nothing'}"] if isinstance(hit, list | tuple) else []
    return "; ".join([*told, *([numbers.words(rest)] if rest else [])])


def _raised(exception: type_json) -> str:
    lines = exception if isinstance(exception, list | tuple) else [exception] if exception else []
    last = [line for text in lines for line in str(text).splitlines() if line.strip()][-1:]
    return f"because: {last[0].strip()}" if last else ""
