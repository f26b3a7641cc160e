"""The AWS APIs of a lab: moto's server in this process, behind a thin layer that sees every call.

moto records what was asked; a hook *before* it may refuse as AWS would, a hook *after* it makes it really happen.
Hooks and moto itself run under one lock, so whoever holds `Cloud.lock` may read and set moto's objects.
"""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from drkit.errors import LabError
from drkit.lab import ports

ACCOUNT_ID = "123456789012"
SERVICES = ("ec2", "rds", "autoscaling", "elbv2", "sts", "ssm", "route53", "s3", "secretsmanager")

_CREDENTIAL = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")
_SIGNING_NAMES = {"elasticloadbalancing": "elbv2"}
_READ_ONLY = ("Describe", "Get", "List", "Head")

log = logging.getLogger("drkit.lab.cloud")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


class AwsError(Exception):
    """What a hook raises to answer a call itself, as AWS answers it."""

    def __init__(self, code: str, message: str, status: int = 400, **members: object) -> None:
        """members: what else the answer says; of services in JSON only."""
        super().__init__(message)
        self.code, self.message, self.status, self.members = code, message, status, members


@dataclass(frozen=True, slots=True)
class Call:
    """One AWS API call. `params` holds the form's flat names (SubnetId.1, Tags.member.1.Key) or the JSON body."""

    service: str
    action: str
    region: str
    params: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str, default: str = "") -> str:
        return str(self.params.get(name, default))

    def flag(self, name: str) -> bool:
        return self.text(name).lower() == "true"

    @property
    def changes_something(self) -> bool:
        return not self.action.startswith(_READ_ONLY)


Hook = Callable[[Call], None]


@dataclass(frozen=True, slots=True)
class Own:
    """A service that moto lacks and the lab answers itself, as AWS does over REST with JSON.

    actions: (method, path) → name of the action; a path may end in one "{name}", which becomes a parameter like those
    of the query and the body. answer: returns status and body, or raises AwsError; it is called under the cloud's lock.
    """

    actions: Mapping[tuple[str, str], str]
    answer: Callable[[Call], tuple[int, Mapping[str, object]]]

    def call(self, call: Call, environ: Environ) -> Call:
        """Return the call by its own name and with its parameters; one that is unknown stays as it is."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        for (wanted, template), action in self.actions.items():
            start, _, name = template.partition("{")
            rest = path.removeprefix(start)
            if method == wanted and path.startswith(start) and bool(rest) == bool(name):
                query = dict(parse_qsl(environ.get("QUERY_STRING", "")))
                body = environ["wsgi.input"].read()
                return Call(call.service, action, call.region, {**query, **_json_object(body), name.rstrip("}"): rest})
        return call


class Cloud:
    """A moto server on a loopback port of its own."""

    def __init__(self, request_log: Path) -> None:
        self.lock = threading.RLock()
        self.port = 0
        self.before: dict[
            tuple[str, str], Hook
        ] = {}  # (service, action) → may raise AwsError instead of letting moto answer
        self.after: list[Hook] = []  # called once moto has answered OK to a call that changes something
        self.own: dict[str, Own] = {}  # by service
        self.pages: dict[str, Callable[[], object]] = {}  # our own: path under /_drkit/ → what to answer as JSON
        self._request_log = request_log
        self._server: Any = None
        self._moto: Any = None

    def start(self) -> None:
        """Import moto, bind a free port and serve in threads.

        Raises LabError if moto is missing, OSError if no port is free.
        """
        try:
            from moto.moto_server.werkzeug_app import (
                DomainDispatcherApplication,
                MotoRequestHandler,
                create_backend_app,
            )
            from werkzeug.serving import make_server
        except ImportError as e:
            raise LabError(f"the lab needs moto: {e}", "pip install 'drkit[lab]'") from None
        self._moto = DomainDispatcherApplication(create_backend_app)
        lines = self._request_log.open("a", buffering=1)

        class Handler(MotoRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, _level: str, message: str, *args: Any) -> None:
                lines.write(f"{self.log_date_time_string()} {message % args}\n")

        with ports.listener() as listener:
            self.port = listener.getsockname()[1]
            self._server = make_server(
                ports.HOST, self.port, self, threaded=True, request_handler=Handler, fd=listener.fileno()
            )
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="aws-endpoint", daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @staticmethod
    def backend(service: str, region: str) -> Any:
        """Return moto's own object that holds all of a service's records in a region ("aws" for global services)."""
        from moto.backends import get_backend

        return get_backend(service)[ACCOUNT_ID][region]  # type: ignore[call-overload]

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one HTTP request (WSGI)."""
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_drkit/"):
            return self._own_page(path.removeprefix("/_drkit/"), start_response)
        call = parse(environ)
        if call is not None and (own := self.own.get(call.service)):
            call = own.call(call, environ)
        try:
            if call is None or call.service == "s3":  # objects: large bodies, nothing of ours, no lock
                return list(self._moto(environ, start_response))
            return self._answer(call, environ, start_response)
        except AwsError as e:
            return _refuse(call, e, start_response)
        except NotImplementedError as e:  # a 5xx would be retried by every client
            return _refuse(call, AwsError("NotImplemented", f"not in the lab: {e or call}", 501), start_response)
        except Exception as e:
            log.exception("%s", call)
            return _refuse(call, AwsError("InternalFailure", f"{type(e).__name__}: {e}", 500), start_response)

    def _answer(self, call: Call, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status: list[Any] = []

        def remember(*answer: Any) -> None:
            status[:] = answer

        with self.lock:
            if before := self.before.get((call.service, call.action)):
                before(call)
            own = self.own.get(call.service)
            body = _own_answer(own, call, remember) if own else b"".join(self._moto(environ, remember))
        if str(status[0]).startswith("2") and call.changes_something:
            for after in self.after:
                after(call)
        start_response(*status)
        return [body]

    def _own_page(self, name: str, start_response: StartResponse) -> Iterable[bytes]:
        page = self.pages.get(name)
        body = json.dumps(page() if page else {"error": "no such page"}).encode()
        start_response("200 OK" if page else "404 Not Found", [("Content-Type", "application/json"), _length(body)])
        return [body]


def parse(environ: Environ) -> Call | None:
    """Return which AWS call an HTTP request is, its body put back; None for an unsigned or unknown one."""
    signed = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    if signed is None:
        return None
    region, service = signed.groups()
    service = _SIGNING_NAMES.get(service, service)
    if service == "s3":
        return Call("s3", environ["REQUEST_METHOD"], region)
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(body)
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return Call(service, target.rpartition(".")[2], region, _json_object(body))
    form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if "Action" in form:
        return Call(service, form.pop("Action"), region, form)
    verb = "Get" if environ["REQUEST_METHOD"] in ("GET", "HEAD") else "Change"  # REST: the path says what
    return Call(service, f"{verb}:{environ.get('PATH_INFO', '')}", region)


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _own_answer(own: Own, call: Call, start_response: StartResponse) -> bytes:
    if call.action not in own.actions.values():
        raise NotImplementedError(call)
    status, answer = own.answer(call)
    body = json.dumps(answer).encode()
    start_response(f"{status} OK", [("Content-Type", "application/json"), _length(body)])
    return body


def _refuse(call: Call | None, error: AwsError, start_response: StartResponse) -> Iterable[bytes]:
    code, message = escape(error.code), escape(error.message)
    kind, more = "text/xml", []
    if call is not None and call.service == "ec2":
        text = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
            "<RequestID>lab</RequestID></Response>"
        )
    elif call is not None and call.service in ("ssm", "secretsmanager", "arc-zonal-shift"):
        kind, more = "application/x-amz-json-1.1", [("X-Amzn-ErrorType", error.code)]  # REST: the header says it
        text = json.dumps({"__type": error.code, "message": error.message, **error.members})
    else:
        text = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
            "<RequestId>lab</RequestId></ErrorResponse>"
        )
    body = text.encode()
    start_response(f"{error.status} {error.code}", [("Content-Type", kind), _length(body), *more])
    return [body]


def _length(body: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(body))
