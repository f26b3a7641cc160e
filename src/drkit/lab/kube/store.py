"""All objects of the cluster with their versions; who watches hears of each change once, in order.

An object in here is never changed in place: who wants another one gives `update` a function. So what `get` and `find`
return may be read without a copy, and must not be written to.
"""

from __future__ import annotations

import copy
import re
import secrets
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from drkit import clock
from drkit.lab.kube import defaults
from drkit.lab.kube.resources import NAMESPACE, POD, RESOURCES, ApiError, Object, Resource, is_over, name_of, node_of
from drkit.lab.kube.selectors import Match, everything

Key = tuple[str | None, str]  # namespace (None: of the cluster), name
Change = Callable[[Object], Object]  # gets a copy that it may write to
NAMESPACES = ("default", "kube-system", "kube-node-lease", "kube-public")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_KEPT = (
    "uid", "creationTimestamp", "name", "namespace", "deletionTimestamp", "deletionGracePeriodSeconds", "generation",
    "resourceVersion",
)  # fmt: skip


class Event(NamedTuple):
    version: int
    resource: Resource
    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    new: Object  # of one that was deleted: as it was last
    old: Object | None


class TooOld(Exception):
    """Somebody wants to watch from a version of which nothing is known any more. `first` is the oldest that is."""

    def __init__(self, first: int) -> None:
        super().__init__(first)
        self.first = first


def timestamp(after_s: float = 0.0) -> str:
    return f"{clock.wall_utc() + timedelta(seconds=after_s):%Y-%m-%dT%H:%M:%SZ}"


class Store:
    def __init__(self, *, toleration_s: int = 300, history: int = 20_000) -> None:
        """toleration_s: how long pods stay on a node that is not ready, unless they say otherwise."""
        self._toleration_s = toleration_s
        self._changed = threading.Condition(threading.RLock())
        self._objects: dict[Resource, dict[Key, Object]] = {r: {} for r in RESOURCES}
        self._log: deque[Event] = deque(maxlen=history)
        self.version = 1000
        for name in NAMESPACES:
            self.create(NAMESPACE, None, {"metadata": {"name": name}})

    @property
    def lock(self) -> threading.Condition:
        """Hold it to look and act on what was seen."""
        return self._changed

    # --- reading ------------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        """Return an object. Raises ApiError 404."""
        with self._changed:
            found = self._objects[resource].get(_key(resource, namespace, name))
        if found is None:
            raise resource.not_found(name)
        return found

    def find(self, resource: Resource, namespace: str | None = None, match: Match = everything) -> list[Object]:
        """Return what matches, by namespace (None: any) and name."""
        return self.listed(resource, namespace, match)[0]

    def listed(self, resource: Resource, namespace: str | None, match: Match) -> tuple[list[Object], int]:
        """Return what matches, and the version as of which it does."""
        with self._changed:
            found = sorted(self._objects[resource].items(), key=lambda item: (item[0][0] or "", item[0][1]))
            version = self.version
        return [o for (where, _), o in found if namespace in (None, where) and match(o)], version

    def uids(self) -> set[str]:
        with self._changed:
            return {o["metadata"]["uid"] for objects in self._objects.values() for o in objects.values()}

    def since(self, version: int, timeout_s: float) -> list[Event]:
        """Return what has changed since a version, as soon as something has; [] if nothing does in time.

        Raises TooOld if not all of it is known any more.
        """
        with self._changed:
            if self._log and version < self._log[0].version - 1:
                raise TooOld(self._log[0].version)
            if self.version <= version:
                self._changed.wait(timeout_s)
            found: list[Event] = []
            for event in reversed(self._log):
                if event.version <= version:
                    break
                found.append(event)
        return found[::-1]

    def wake(self) -> None:
        """Let whoever waits for a change look again."""
        with self._changed:
            self._changed.notify_all()

    # --- writing ------------------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str | None, wanted: Object) -> Object:
        """Make an object and return it. Raises ApiError: 404 no such namespace, 409 it is there, 422 invalid."""
        new = copy.deepcopy(wanted)
        meta = new["metadata"] = new.get("metadata") or {}
        if not meta.get("name"):
            if not meta.get("generateName"):
                raise resource.invalid("", "Required value: name or generateName is required", "metadata.name")
            meta["name"] = meta["generateName"] + "".join(secrets.choice(_LETTERS) for _ in range(5))
        name = str(meta["name"])
        if not _NAME.fullmatch(name):
            raise resource.invalid(
                name, f'Invalid value: "{name}": a lowercase RFC 1123 subdomain is wanted', "metadata.name"
            )
        with self._changed:
            if resource.namespaced:
                namespace = meta["namespace"] = self._namespace(namespace, meta)
            key = _key(resource, namespace, name)
            if key in self._objects[resource]:
                details = {"name": name, "group": resource.group, "kind": resource.plural}
                raise ApiError(409, "AlreadyExists", f'{resource.qualified} "{name}" already exists', details)
            new["apiVersion"], new["kind"] = resource.api_version, resource.kind
            meta.update(uid=str(uuid.uuid4()), creationTimestamp=timestamp())
            for field in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds"):
                meta.pop(field, None)
            defaults.apply(resource, new, toleration_s=self._toleration_s)
            if "spec" in new:
                meta["generation"] = 1
            return self._put(resource, key, "ADDED", new, None)

    def _namespace(self, asked: str | None, meta: Mapping[str, Any]) -> str:
        namespace = asked or meta.get("namespace") or "default"
        if meta.get("namespace") not in (None, namespace):
            raise ApiError(400, "BadRequest", "the namespace of the object does not match the one of the request")
        if (None, namespace) not in self._objects[NAMESPACE]:
            raise NAMESPACE.not_found(namespace)
        return str(namespace)

    def update(
        self,
        resource: Resource,
        namespace: str | None,
        name: str,
        change: Change,
        *,
        subresource: str = "",
        checked: bool = False,
    ) -> Object:
        """Replace an object by what a function makes of a copy of it; return the new one, or the old if it is the same.

        subresource: "status" changes the status alone; "" all but the status, where there is one. checked: the version
        that the new one names has to be the current one. Raises ApiError: 404, 409 for another version, 422.
        """
        with self._changed:
            key = _key(resource, namespace, name)
            old = self.get(resource, namespace, name)
            new = change(copy.deepcopy(old))
            meta = new["metadata"] = new.get("metadata") or {}
            seen = meta.get("resourceVersion")
            if checked and seen and seen != old["metadata"]["resourceVersion"]:
                raise resource.conflict(
                    name,
                    "the object has been modified; please apply your changes to the latest version and try again",
                )
            if subresource == "status":
                new = {**copy.deepcopy(old), "status": new.get("status") or {}}
            elif "status" in resource.subresources:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = old["status"]
            for field in _KEPT:
                if field in old["metadata"]:
                    new["metadata"][field] = old["metadata"][field]
                else:
                    new["metadata"].pop(field, None)
            new["apiVersion"], new["kind"] = old["apiVersion"], old["kind"]
            if new == old:
                return old
            defaults.check(resource, new, old)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] = old["metadata"].get("generation", 1) + 1
            if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers") and resource != POD:
                self._put(resource, key, "MODIFIED", new, old)
                return self._remove(resource, key)
            return self._put(resource, key, "MODIFIED", new, old)

    def patch(
        self, resource: Resource, obj: Object, change: Callable[[Object], None], *, subresource: str = ""
    ) -> Object | None:
        """Let a controller change an object in a copy, whatever its version is by now; None if it is gone."""

        def changed(now: Object) -> Object:
            change(now)
            return now

        try:
            return self.update(
                resource, obj["metadata"].get("namespace"), name_of(obj), changed, subresource=subresource
            )
        except ApiError as e:
            if e.code != 404:
                raise
            return None

    # --- deleting -----------------------------------------------------------------------------------------------------

    def delete(
        self, resource: Resource, namespace: str | None, name: str, options: Mapping[str, Any] | None = None
    ) -> Object:
        """Delete an object, or ask for it: a pod on a node ends when its node says so, one with finalizers later.

        Returns the object as it is then, or a Status. Raises ApiError: 404, 409 for a precondition that does not hold.
        """
        options = options or {}
        with self._changed:
            key = _key(resource, namespace, name)
            now = self.get(resource, namespace, name)
            for field, value in (options.get("preconditions") or {}).items():
                if value and value != now["metadata"].get(field):
                    raise resource.conflict(
                        name,
                        f"the {field.upper()} in the precondition ({value}) does not match the {field.upper()} in "
                        f"record ({now['metadata'].get(field)}). The object might have been deleted and then recreated",
                    )
            if resource == POD:
                grace_s = options.get("gracePeriodSeconds")
                return self._delete_pod(key, now, None if grace_s is None else int(grace_s))
            if now["metadata"].get("finalizers"):
                return self._mark(resource, key, now, 0)
            if resource == NAMESPACE:
                for inner, objects in self._objects.items():
                    for one in [k for k in objects if inner.namespaced and k[0] == name]:
                        self._remove(inner, one)
            self._remove(resource, key)
        details = {"name": name, "group": resource.group, "kind": resource.plural, "uid": now["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _delete_pod(self, key: Key, now: Object, grace_s: int | None) -> Object:
        if grace_s is None:
            grace_s = int(now["spec"]["terminationGracePeriodSeconds"])
        if not node_of(now) or is_over(now):
            grace_s = 0
        if grace_s <= 0 and not now["metadata"].get("finalizers"):
            return self._remove(POD, key)
        before = now["metadata"].get("deletionGracePeriodSeconds")
        if before is not None and grace_s >= before:
            return now
        return self._mark(POD, key, now, grace_s)

    def _mark(self, resource: Resource, key: Key, now: Object, grace_s: int) -> Object:
        if now["metadata"].get("deletionTimestamp") and resource != POD:
            return now
        new = copy.deepcopy(now)
        new["metadata"].update(deletionTimestamp=timestamp(grace_s), deletionGracePeriodSeconds=grace_s)
        return self._put(resource, key, "MODIFIED", new, now)

    def remove(self, resource: Resource, obj: Object) -> None:
        """Delete an object at once if it is still that very one."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": obj["metadata"]["uid"]}}
        try:
            self.delete(resource, obj["metadata"].get("namespace"), name_of(obj), options)
        except ApiError as e:
            if e.code not in (404, 409):
                raise

    def delete_all(self, resource: Resource, objects: Iterable[Object], options: Mapping[str, Any]) -> None:
        for obj in objects:
            try:
                self.delete(resource, obj["metadata"].get("namespace"), name_of(obj), options)
            except ApiError as e:
                if e.code != 404:
                    raise

    def _remove(self, resource: Resource, key: Key) -> Object:
        old = self._objects[resource].pop(key)
        return self._tell(resource, "DELETED", copy.deepcopy(old), old)

    def _put(
        self, resource: Resource, key: Key, kind: Literal["ADDED", "MODIFIED"], new: Object, old: Object | None
    ) -> Object:
        self._objects[resource][key] = new
        return self._tell(resource, kind, new, old)

    def _tell(
        self, resource: Resource, kind: Literal["ADDED", "MODIFIED", "DELETED"], new: Object, old: Object | None
    ) -> Object:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self._log.append(Event(self.version, resource, kind, new, old))
        self._changed.notify_all()
        return new


def _key(resource: Resource, namespace: str | None, name: str) -> Key:
    return (namespace if resource.namespaced else None, name)
