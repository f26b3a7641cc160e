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
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from drkit.errors import LabError
from drkit.lab import ports
from drkit.lab.calls import CLIENT, AwsError, Call, CallLog
from drkit.lab.disturbances import Disturbances

__all__ = ["ACCOUNT_ID", "AwsError", "Call", "Cloud", "parse"]

ACCOUNT_ID = "123456789012"
SERVICES = ("ec2", "rds", "autoscaling", "elbv2", "sts", "ssm", "route53", "s3", "secretsmanager")

_CREDENTIAL = re.compile(r"Credential=[^/]+/\d{8}/([^/]+)/([^/]+)/aws4_request")
_SIGNING_NAMES = {"elasticloadbalancing": "elbv2"}
_XML_NAME = re.compile(rb"<Name>([^<]+)</Name>")
_MODELS: dict[str, str] = {}  # services that botocore's models know by another name

log = logging.getLogger("drkit.lab.cloud")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]


Hook = Callable[[Call], None]
Answer = Callable[[Call], object]  # in the shape that the API's model gives the result, as boto3 would return it
Page = Callable[[Mapping[str, Any]], object]  # POSTed JSON ({} for GET) → what to answer as JSON


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
        self.answers: dict[tuple[str, str], Answer] = {}  # what moto lacks, or does not know: answered instead of it
        self.after: list[Hook] = []  # called once moto has answered OK to a call that changes something
        self.own: dict[str, Own] = {}  # by service
        self.pages: dict[str, Callable[[], object]] = {}  # our own: path under /_drkit/ → what to answer as JSON
        self.posts: dict[str, Page] = {"disturb": self._disturb}
        self.disturbances = Disturbances()
        self.calls: CallLog | None = None  # where changing calls are written down, from when there is one
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

        return get_backend(service)[ACCOUNT_ID][region]  # type: ignore[call-overload]  # its types know literal names only

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one HTTP request (WSGI)."""
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_drkit/"):
            return self._own_page(path.removeprefix("/_drkit/"), environ, start_response)
        call = parse(environ)
        if call is not None and (own := self.own.get(call.service)):
            call = own.call(call, environ)
        if call is not None and self.calls is not None and CLIENT not in environ.get("HTTP_USER_AGENT", ""):
            start_response = self.calls.follow(call, start_response)
        try:
            if call is not None:
                self.disturbances.strike(call, environ)
            if call is None or call.service == "s3":  # objects: large bodies, nothing of ours, no lock
                return list(self._moto(environ, start_response))
            return self._answer(call, environ, start_response)
        except AwsError as e:
            return _refuse(call, e, start_response)
        except NotImplementedError as e:  # a 5xx would be retried by every client
            return _refuse(call, AwsError("NotImplemented", f"not in the lab: {e or call}", 501), start_response)
        except ConnectionError:
            raise  # nothing is answered
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
            if own := self.own.get(call.service):
                body = _own_answer(own, call, remember)
            elif answer := self.answers.get((call.service, call.action)):
                body = serialized(call, answer(call), remember)
            else:
                body = b"".join(self._moto(environ, remember))
        if str(status[0]).startswith("2") and call.changes_something:
            for after in self.after:
                after(call)
        start_response(*status)
        return [body]

    def _own_page(self, name: str, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        status, content = "404 Not Found", {"error": "no such page"}  # type: tuple[str, object]
        if environ["REQUEST_METHOD"] == "POST" and name in self.posts:
            try:
                status, content = "200 OK", self.posts[name](_json_object(_body(environ)))
            except (LabError, ValueError, TypeError) as e:
                status, content = "400 Bad Request", {"error": str(e)}
        elif environ["REQUEST_METHOD"] == "GET" and name in self.pages:
            status, content = "200 OK", self.pages[name]()
        body = json.dumps(content).encode()
        start_response(status, [("Content-Type", "application/json"), _length(body)])
        return [body]

    def _disturb(self, wanted: Mapping[str, Any]) -> object:
        self.disturbances.begin(str(wanted.get("what")), float(wanted.get("for_s", 0)))
        return {}


def parse(environ: Environ) -> Call | None:
    """Return which AWS call an HTTP request is, its body put back; None for an unsigned or unknown one."""
    signed = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    if signed is None:
        return None
    region, service = signed.groups()
    service = _SIGNING_NAMES.get(service, service)
    if service == "s3":
        return Call("s3", environ["REQUEST_METHOD"], region, {"Path": environ.get("PATH_INFO", "")})
    body = _body(environ)
    if target := environ.get("HTTP_X_AMZ_TARGET"):
        return Call(service, target.rpartition(".")[2], region, _json_object(body))
    form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    if "Action" in form:
        return Call(service, form.pop("Action"), region, form)
    verb = "Get" if environ["REQUEST_METHOD"] in ("GET", "HEAD") else "Change"  # REST: the path says what
    names = {"Name": found[1].decode("utf-8", "replace")} if (found := _XML_NAME.search(body)) else {}
    return Call(service, f"{verb}:{environ.get('PATH_INFO', '')}", region, names)


def _body(environ: Environ) -> bytes:
    """Return a request's body, and put it back."""
    body = bytes(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    environ["wsgi.input"] = io.BytesIO(body)
    return body


def serialized(call: Call, result: object, start_response: StartResponse) -> bytes:
    """Return a result as the service's protocol writes it, by the API's own model."""
    from moto.core.serialize import get_serializer_class
    from moto.core.utils import get_service_model

    model = get_service_model(_MODELS.get(call.service, call.service))
    serializer = get_serializer_class(model.service_name, model.protocol)(model.operation_model(call.action))
    told = serializer.serialize(result)
    body = str(told["body"]).encode()
    start_response(f"{told['status_code']} OK", [*told["headers"].items(), _length(body)])
    return body


def _json_object(body: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _own_answer(own: Own, call: Call, start_response: StartResponse) -> bytes:
    if call.action not in own.actions.values():
        raise NotImplementedError(call)  # as moto does; answered with 501
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
    elif call is not None and call.service == "s3":
        text = f"<Error><Code>{code}</Code><Message>{message}</Message><RequestId>lab</RequestId></Error>"
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
