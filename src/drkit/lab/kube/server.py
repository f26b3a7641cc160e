"""The API server: HTTPS on loopback, one thread a connection, in front of a store.

Source: Kubernetes, "API Concepts". What it does not serve is a 404, as on a cluster that lacks it.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import secrets
import socketserver
import ssl
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from drkit import clock
from drkit.clock import NS_PER_S
from drkit.lab import ports
from drkit.lab.kube import access, protobuf, views
from drkit.lab.kube.disruption import evict
from drkit.lab.kube.patches import json_patched, merged, strategically_merged
from drkit.lab.kube.resources import BY_PATH, POD, ApiError, Object, Resource, name_of, namespace_of, status_of
from drkit.lab.kube.selectors import Match, parsed
from drkit.lab.kube.store import Store, TooOld

log = logging.getLogger("drkit.lab.kube")

WATCH_S = 1800.0  # how long a watch lasts that names no end
BOOKMARK_EVERY_S = 30.0
_LOOK_EVERY_S = 5.0  # for a client that went away
_MERGES = {
    "application/merge-patch+json": lambda old, patch, _: merged(old, patch),
    "application/strategic-merge-patch+json": strategically_merged,
    "application/apply-patch+yaml": strategically_merged,
}


class Place(NamedTuple):
    """What a path means."""

    resource: Resource
    namespace: str | None
    name: str = ""
    subresource: str = ""


class ApiServer:
    """Serves a store until `close`. `kubeconfig` is the only way in."""

    def __init__(self, store: Store, directory: Path) -> None:
        certificates = access.make_certificates()
        context = access.server_context(certificates, directory)
        token = secrets.token_urlsafe(24)
        self._server = _Server(store, token, context)
        self.port = int(self._server.server_address[1])
        self.url = f"https://{ports.HOST}:{self.port}"
        self.kubeconfig = access.write_kubeconfig(
            directory / "kubeconfig", url=self.url, token=token, authority=certificates.authority
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="kube-api", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.over.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, store: Store, token: str, context: ssl.SSLContext) -> None:
        self.store, self.token, self._context = store, token, context
        self.over = threading.Event()
        super().__init__((ports.HOST, 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = ports.listener(0)
        self.server_address = self.socket.getsockname()
        self.server_activate()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Wrap the connection in its own thread: a client that says nothing holds up nobody else."""
        try:
            request.settimeout(10)
            with self._context.wrap_socket(request, server_side=True) as secure:
                secure.settimeout(None)
                _Handler(secure, client_address, self)
        except OSError:
            pass  # no TLS, or it went away

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  (socketserver's signature)
        log.exception("a request failed")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Log nothing of each request."""

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815  (http.server's names)

    # --- one request --------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        try:
            body = self._body()
            if not hmac.compare_digest(self.headers.get("Authorization") or "", f"Bearer {self.server.token}"):
                raise ApiError(401, "Unauthorized", "Unauthorized")
            self._route(body)
        except ApiError as e:
            self._send(e.status, e.code, e.headers)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            self.close_connection = True
        except Exception as e:
            log.exception("%s %s", self.command, self.path)
            self._send(ApiError(500, "InternalError", f"a defect of the lab's cluster: {e!r}").status, 500)

    def _body(self) -> Any:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not raw:
            return None
        if raw.startswith(protobuf.MAGIC):
            return protobuf.decoded(raw)
        try:
            return yaml.safe_load(raw) if "yaml" in (self.headers.get("Content-Type") or "") else json.loads(raw)
        except (ValueError, yaml.YAMLError) as e:
            raise ApiError(400, "BadRequest", f"the body cannot be read: {e}") from None

    def _send(self, answer: Object, code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._send_bytes(json.dumps(answer).encode(), "application/json", code, headers)

    def _send_bytes(self, data: bytes, kind: str, code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _route(self, body: Any) -> None:
        parts = urlsplit(self.path)
        path = [unquote(p) for p in parts.path.strip("/").split("/")]
        query = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        if path[0] in ("healthz", "livez", "readyz"):
            self._send_bytes(b"ok", "text/plain")
        elif (found := _document(path)) is not None:
            self._send(found)
        else:
            self._serve(_place(path), query, body)

    def _serve(self, place: Place, query: Mapping[str, str], body: Any) -> None:
        if self.command == "GET":
            self._get(place, query)
        elif place.name:
            self._change_one(place, query, body)
        elif self.command == "POST":
            self._create(place, query, body)
        elif self.command == "DELETE":
            match = parsed(query.get("labelSelector", ""), query.get("fieldSelector", ""))
            found = self.server.store.find(place.resource, place.namespace, match)
            self.server.store.delete_all(place.resource, found, _options(query, body))
            self._send({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
        else:
            raise _not_allowed()

    # --- reading ------------------------------------------------------------------------------------------------------

    @property
    def _as_table(self) -> bool:
        return "as=Table" in (self.headers.get("Accept") or "")

    def _get(self, place: Place, query: Mapping[str, str]) -> None:
        fields = query.get("fieldSelector", "")
        watched = query.get("watch", "").lower() in ("true", "1")
        if place.name and not watched:
            found = self.server.store.get(place.resource, place.namespace, place.name)
            if place.subresource == "scale":
                self._send(_scale(found))
            elif self._as_table:
                self._send(views.table(place.resource, [found], found["metadata"]["resourceVersion"]))
            else:
                self._send(found)
            return
        match = parsed(query.get("labelSelector", ""), f"metadata.name={place.name}" if place.name else fields)
        if watched:
            self._watch(place, match, query)
            return
        objects, version = self.server.store.listed(place.resource, place.namespace, match)
        if self._as_table:
            self._send(views.table(place.resource, objects, str(version)))
            return
        resource = place.resource
        self._send(
            {
                "kind": f"{resource.kind}List", "apiVersion": resource.api_version,
                "metadata": {"resourceVersion": str(version)}, "items": objects,
            }
        )  # fmt: skip

    def _watch(self, place: Place, match: Match, query: Mapping[str, str]) -> None:
        """Tell of changes until the time is over or the client goes away."""
        store, resource = self.server.store, place.resource
        asked, initial = query.get("resourceVersion", ""), query.get("sendInitialEvents", "").lower() == "true"
        deadline_ns = clock.now_ns() + int(float(query.get("timeoutSeconds") or WATCH_S) * NS_PER_S)
        bookmarks = query.get("allowWatchBookmarks", "").lower() in ("true", "1")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if asked in ("", "0") or initial:
            objects, version = store.listed(resource, place.namespace, match)
            for obj in objects:
                self._tell("ADDED", resource, obj)
            if initial:
                self._bookmark(resource, version, {"k8s.io/initial-events-end": "true"})
        else:
            version = int(asked)
        marked_ns = clock.now_ns()
        while not self.server.over.is_set() and (left_ns := deadline_ns - clock.now_ns()) > 0:
            try:
                events = store.since(version, min(_LOOK_EVERY_S, left_ns / NS_PER_S))
            except TooOld as e:
                gone = ApiError(410, "Expired", f"too old resource version: {version} ({e.first})")
                self._chunk({"type": "ERROR", "object": gone.status})
                break
            for event in events:
                version = event.version
                if event.resource == resource and place.namespace in (None, namespace_of(event.new)):
                    was, now = event.old is not None and match(event.old), match(event.new)
                    if kind := _seen_as(event.kind, was=was, now=now):
                        self._tell(kind, resource, event.new)
            if bookmarks and clock.now_ns() - marked_ns > BOOKMARK_EVERY_S * NS_PER_S:
                self._bookmark(resource, version)
                marked_ns = clock.now_ns()
        self.wfile.write(b"0\r\n\r\n")

    def _tell(self, kind: str, resource: Resource, obj: Object) -> None:
        shown = views.table(resource, [obj], obj["metadata"]["resourceVersion"]) if self._as_table else obj
        self._chunk({"type": kind, "object": shown})

    def _bookmark(self, resource: Resource, version: int, annotations: Mapping[str, str] | None = None) -> None:
        meta: Object = {"resourceVersion": str(version)}
        if annotations:
            meta["annotations"] = dict(annotations)
        obj = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
        shown = {**views.table(resource, [], str(version)), "metadata": meta} if self._as_table else obj
        self._chunk({"type": "BOOKMARK", "object": shown})

    def _chunk(self, event: Object) -> None:
        data = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    # --- changing -----------------------------------------------------------------------------------------------------

    def _create(self, place: Place, query: Mapping[str, str], body: Any) -> None:
        resource = place.resource
        if not isinstance(body, dict):
            raise ApiError(400, "BadRequest", f"a {resource.kind} is wanted")
        if body.get("kind") not in (None, resource.kind):
            raise ApiError(400, "BadRequest", f"no kind {body['kind']!r} is registered for {resource.plural}")
        self._send(body if _is_dry(query) else self.server.store.create(resource, place.namespace, body), 201)

    def _change_one(self, place: Place, query: Mapping[str, str], body: Any) -> None:
        store, (resource, namespace, name, subresource) = self.server.store, place
        if self.command == "POST" and resource == POD and subresource in ("eviction", "binding"):
            if subresource == "binding":
                store.update(resource, namespace, name, _bound_to(body["target"]["name"]))
            elif not _is_dry(query):
                evict(store, str(namespace), name, body or {})
            self._send({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)
        elif self.command == "DELETE" and not subresource:
            options = _options(query, body)
            done = store.get(resource, namespace, name) if _is_dry(query) else None
            self._send(done or store.delete(resource, namespace, name, options))
        elif self.command in ("PUT", "PATCH"):
            self._replace(place, query, body)
        else:
            raise _not_allowed()

    def _replace(self, place: Place, query: Mapping[str, str], body: Any) -> None:
        store, (resource, namespace, name, subresource) = self.server.store, place
        how = (self.headers.get("Content-Type") or "").partition(";")[0].strip()
        change = (
            self._put(body, subresource) if self.command == "PUT" else _patch(body, how, subresource, resource.kind)
        )
        if _is_dry(query):
            self._send(change(json.loads(json.dumps(store.get(resource, namespace, name)))))
            return
        kept = "status" if subresource == "status" else ""
        try:
            new = store.update(resource, namespace, name, change, subresource=kept, checked=True)
        except ApiError as e:
            if e.code != 404 or how != "application/apply-patch+yaml":
                raise
            body.setdefault("metadata", {})["name"] = name
            self._send(store.create(resource, namespace, body), 201)
            return
        self._send(_scale(new) if subresource == "scale" else new)

    def _put(self, body: Any, subresource: str) -> Callable[[Object], Object]:
        if not isinstance(body, dict):
            raise ApiError(400, "BadRequest", "an object is wanted")
        if subresource == "scale":
            return lambda now: _with_replicas(now, body["spec"].get("replicas", 0))
        return lambda _: body


# --- paths ------------------------------------------------------------------------------------------------------------


def _document(path: list[str]) -> Object | None:
    """Return what is said at paths that are about the API itself, None elsewhere."""
    match path:
        case [""]:
            return {"paths": ["/api", "/apis", "/healthz", "/openapi/v3", "/version"]}
        case ["version"]:
            return views.VERSION
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        case ["apis"]:
            return views.groups()
        case ["api", version]:
            return views.resources("", version)
        case ["apis", name] if any(group == name for group, _, _ in BY_PATH):
            return {"kind": "APIGroup", "apiVersion": "v1", **views.group(name)}
        case ["apis", name, version] if any((g, v) == (name, version) for g, v, _ in BY_PATH):
            return views.resources(name, version)
        case ["openapi", "v3"]:
            return views.openapi_index()
        case ["openapi", "v3", *rest]:
            return views.openapi("/".join(rest))
    return None


def _place(path: list[str]) -> Place:
    """Return what a path of the API means. Raises ApiError 404."""
    match path:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            raise _unknown()
    namespace = None
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] not in ("status", "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0])) if rest else None
    if resource is None or len(rest) > 3:
        raise _unknown()
    place = Place(resource, namespace, *rest[1:])
    if place.subresource and place.subresource not in resource.subresources:
        raise _unknown()
    return place


def _unknown() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource")


def _not_allowed() -> ApiError:
    why = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", why)


def _is_dry(query: Mapping[str, str]) -> bool:
    return query.get("dryRun") == "All"


def _options(query: Mapping[str, str], body: Any) -> dict[str, Any]:
    options = dict(body or {})
    if "gracePeriodSeconds" in query:
        with contextlib.suppress(ValueError):
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
    if "propagationPolicy" in query:
        options["propagationPolicy"] = query["propagationPolicy"]
    return options


# --- changes ----------------------------------------------------------------------------------------------------------


def _seen_as(kind: str, *, was: bool, now: bool) -> str:
    """Return what a change is to who sees only what matches; "" for nothing."""
    if kind == "MODIFIED":
        return "MODIFIED" if was and now else "ADDED" if now else "DELETED" if was else ""
    return kind if now else ""


def _patch(body: Any, how: str, subresource: str, kind: str) -> Callable[[Object], Object]:
    def patched(old: Object) -> Object:
        if how == "application/json-patch+json":
            return json_patched(old, body)
        if how not in _MERGES:
            raise ApiError(415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {how}")
        new: Object = _MERGES[how](old, body, kind)
        return new

    if subresource == "scale":
        return lambda now: _with_replicas(now, patched(_scale(now))["spec"]["replicas"])
    return patched


def _scale(obj: Object) -> Object:
    meta = {k: obj["metadata"].get(k) for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta,
        "spec": {"replicas": obj["spec"].get("replicas", 0)},
        "status": {"replicas": status_of(obj).get("replicas", 0), "selector": _selector_text(obj)},
    }  # fmt: skip


def _selector_text(obj: Object) -> str:
    return ",".join(f"{k}={v}" for k, v in (obj["spec"].get("selector") or {}).get("matchLabels", {}).items())


def _with_replicas(now: Object, replicas: int) -> Object:
    now["spec"]["replicas"] = replicas
    return now


def _bound_to(node: str) -> Callable[[Object], Object]:
    def bind(pod: Object) -> Object:
        if pod["spec"].get("nodeName"):
            raise POD.conflict(name_of(pod), f"pod {name_of(pod)} is already assigned to node")
        pod["spec"]["nodeName"] = node
        return pod

    return bind
