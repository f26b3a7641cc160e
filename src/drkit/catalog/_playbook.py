"""Playbooks as files: what one holds, read and checked. YAML holds data only: names, numbers, order."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drkit.catalog._check import check_function, read_document
from drkit.catalog._experiment import ProbeData
from drkit.errors import BadDocument
from drkit.model import Objective
from drkit.project import parse

_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """One entry of a playbook: a step that drkit carries out, what a person has to decide or do, or a parallel block.

    Exactly one of `step`, `approval`, `manual` and `parallel` is given.
    """

    name: str
    step: str = ""  # "drkit.steps.database.promote": a function marked with @step
    arguments: Mapping[str, Any] = field(default_factory=dict)  # texts may hold ${variable}
    timeout_s: float = 900.0  # of the step on AWS; a target's pace shortens it. People have as long everywhere
    approval: str = ""  # a question to be answered with yes or no
    four_eyes: bool = False  # of an approval: not by the one who started the run
    manual: str = ""  # what a person has to do, and then to confirm with a note
    parallel: tuple[StepCall, ...] = ()  # carried out side by side
    when: str = ""  # "variable=value": only then; else the step is left out
    until: str = ""  # of a step whose effect has to last: the later step that, once begun, takes it away again

    @property
    def by_person(self) -> bool:
        return bool(self.approval or self.manual)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A playbook's file, as it is written."""

    title: str
    description: str
    objective: Objective
    hypothesis: str = ""
    tags: tuple[str, ...] = ()
    tier: str = ""  # "A": promote the replica; "B": restore from the backup
    before: str = ""  # what has to be decided or known by people before it is started
    variables: Mapping[str, str] = field(default_factory=dict)
    probes: tuple[ProbeData, ...]
    baseline_s: float = 30.0  # on AWS: how long to watch a service that still answers before anything is done
    recover_s: float = 900.0  # on AWS: service must be stable by then after the last step
    prerequisites: tuple[StepCall, ...] = ()  # checks: all must hold before the first step
    steps: tuple[StepCall, ...]


@dataclass(frozen=True, slots=True)
class Playbook:
    """A checked playbook. `document` is the file as written; `sha256` is of the file."""

    name: str
    path: Path
    sha256: str
    document: Mapping[str, Any]
    file: _File

    @property
    def title(self) -> str:
        return self.file.title

    @property
    def description(self) -> str:
        return self.file.description.strip()

    @property
    def variables(self) -> dict[str, str]:
        """Return the variables with their defaults: what `--var` may set."""
        return dict(self.file.variables)

    def calls(self, variables: Mapping[str, str] | None = None) -> tuple[StepCall, ...]:
        """Return the steps in order, blocks kept; with variables only those whose `when` holds."""
        return tuple(c for c in self.file.steps if variables is None or _holds(c, variables))


def single(calls: tuple[StepCall, ...]) -> Iterator[StepCall]:
    """Yield the entries one by one, those of parallel blocks too (the blocks themselves are none)."""
    for call in calls:
        if call.parallel:
            yield from call.parallel
        else:
            yield call


def arguments_of(call: StepCall, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return a call's arguments with its variables put in; one that is nothing but ${name} is the variable's text."""
    return {k: _filled(v, variables) for k, v in call.arguments.items()}


def read(path: Path) -> Playbook:
    """Return the playbook in a file, checked down to every step's arguments. Raises BadDocument."""
    document, digest = read_document(path)
    return checked(document, path, digest)


def checked(document: Mapping[str, Any], path: Path, digest: str) -> Playbook:
    """Return a document that was read elsewhere (a run keeps its own) as a Playbook. Raises BadDocument."""
    where = str(path)
    file = parse(_File, document, where)
    seen: set[str] = set()
    for group, calls in (("prerequisites", file.prerequisites), ("steps", file.steps)):
        if group == "steps" and not calls:
            raise BadDocument(f"{where}: it has no steps", "see docs/adding-a-playbook.md")
        for call in calls:
            _check_kind(call, f"{where}: {group}")
            for one in single((call,)):
                at = f"{where}: {group}: {one.name or 'a step'}"
                if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", one.name):
                    raise BadDocument(f"{at}: {one.name!r} is no name for a step", "small letters, digits and dashes")
                if one.name in seen:
                    raise BadDocument(f"{at}: two steps have this name", "a run refers to its steps by name")
                seen.add(one.name)
                _check_kind(one, at, block=call.parallel != ())
                _check_call(one, at, file.variables, check=group == "prerequisites")
    order = [c.name for c in single(file.steps)]
    for call in single(file.steps):
        if call.until and call.until not in order[order.index(call.name) + 1 :]:
            raise BadDocument(
                f"{where}: {call.name}: until is {call.until!r}", "name a later step, which takes its effect away again"
            )
    if not file.probes:
        raise BadDocument(f"{where}: it has no probes", "without clients nothing can be said of the recovery")
    if file.tier not in ("", "A", "B"):
        raise BadDocument(f"{where}: tier is {file.tier!r}", "A promotes the replica, B restores from the backup")
    if file.tier == "B":  # what was restored is worth something once it is verified
        file = replace(file, objective=replace(file.objective, verified=True))
    return Playbook(path.stem, path, digest, document, file)


def _check_kind(call: StepCall, at: str, *, block: bool = False) -> None:
    kinds = [k for k in ("step", "approval", "manual", "parallel") if getattr(call, k)]
    if len(kinds) != 1:
        told = " and ".join(kinds) or "nothing"
        raise BadDocument(f"{at}: {call.name}: it says {told}", "give one of: step, approval, manual, parallel")
    if block and (call.parallel or call.by_person):
        raise BadDocument(f"{at}: {kinds[0]} inside a parallel block", "put it before or after the block")
    if call.four_eyes and not call.approval:
        raise BadDocument(f"{at}: {call.name}: four_eyes without an approval", "it says who may approve")
    if call.timeout_s <= 0:
        raise BadDocument(f"{at}: {call.name}: timeout_s is {call.timeout_s:g}", "it is a number of seconds above 0")


def _check_call(call: StepCall, at: str, variables: Mapping[str, str], *, check: bool) -> None:
    for text in (*_texts(call.arguments), call.when, call.approval, call.manual):
        for name in _VARIABLE.findall(text):
            if name not in variables:
                raise BadDocument(f"{at}: there is no variable {name}", f"known: {', '.join(variables) or 'none'}")
    if call.when:
        name, equals, _ = call.when.partition("=")
        if not equals or name.removesuffix("!") not in variables:
            raise BadDocument(f"{at}: when is {call.when!r}", "write variable=value or variable!=value")
    if call.by_person:
        if check:
            raise BadDocument(f"{at}: a person is asked among the prerequisites", "make it the first step")
        return
    module, _, func = call.step.rpartition(".")
    provider = {"module": module, "func": func, "arguments": dict(call.arguments)}
    function = check_function(provider, at, given_by_us=("recovery", "facts"))
    if not hasattr(function, "drkit_step"):
        raise BadDocument(f"{at}: {call.step} is no step", "mark it with @step; see docs/adding-a-playbook.md")


def step_function(call: StepCall) -> Callable[..., Any]:
    """Return the function that a checked call names."""
    module, _, func = call.step.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), func)
    return function


def _holds(call: StepCall, variables: Mapping[str, str]) -> bool:
    if not call.when:
        return True
    name, _, value = call.when.partition("=")
    if name.endswith("!"):
        return variables[name[:-1]] != value
    return variables[name] == value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda m: variables[m[1]], value)
    if isinstance(value, list | tuple):
        return [_filled(v, variables) for v in value]
    return {k: _filled(v, variables) for k, v in value.items()} if isinstance(value, Mapping) else value


def filled_text(text: str, variables: Mapping[str, str]) -> str:
    """Return a question or an instruction with the variables put in."""
    return str(_filled(text, variables))
