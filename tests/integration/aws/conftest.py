"""A mock of AWS (plain moto, without our reactor) for the calls that drkit makes: which, in what order, with what undo.

It says nothing about times and effects: that is what the lab's tests are for. Between client and moto stands a layer of
ours that writes down every request as it came over the wire and can answer some of them itself, as AWS might.
"""

from __future__ import annotations

import io
import logging
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from drkit import guard
from drkit.targets import AwsAccess, ComputeTarget, DatabaseTarget, NetworkTarget, Target
from drkit.undo import UndoJournal

REGION, RECOVERY_REGION = "eu-central-1", "eu-west-1"
ZONES = tuple(f"{REGION}{z}" for z in "abc")
ACCOUNT = "123456789012"
CONSENT = {"Key": "drkit:consent", "Value": "yes"}
READS = ("Describe", "Get", "List", "Simulate")


@dataclass
class Call:
    operation: str
    key_id: str  # the access key that signed it
    parameters: dict[str, str]
    service: str = ""  # that it was signed for
    region: str = ""  # likewise
    body: bytes = b""
    path: str = ""

    @property
    def iam_action(self) -> str:
        """The action as IAM names it."""
        return f"{'cloudwatch' if self.service == 'monitoring' else self.service}:{self.operation}"

    @property
    def changes_something(self) -> bool:
        return not self.operation.startswith(READS)


@dataclass
class Injected:
    operation: str
    status: int
    code: str
    times: int
    message: str = "injected"
    lost: bool = False  # the call is carried out, and its answer is lost


# Of a call: status, content type and text; None leaves it to moto.
Answer = Callable[["Call"], tuple[int, str, str] | None]


@dataclass
class MockAws:
    """moto behind a recorder; `inject` answers the next calls of an operation with an error instead."""

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    injected: list[Injected] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)  # operation → what answers it instead of moto
    inner: Any = None

    def inject(self, operation: str, code: str, *, status: int = 400, times: int = 10**6, message: str = "") -> None:
        self.injected.append(Injected(operation, status, code, times, message or "injected"))

    def lose(self, operation: str, *, times: int = 1) -> None:
        """Carry the next calls out and lose their answers: the client tries again."""
        self.injected.append(Injected(operation, 503, "ServiceUnavailable", times, lost=True))

    def regions(self) -> set[str]:
        """Return the regions that calls were signed for."""
        return {c.region for c in self.calls}

    def operations(self, *, changes_only: bool = False) -> list[str]:
        return [c.operation for c in self.calls if c.changes_something or not changes_only]

    def changes(self) -> list[str]:
        return self.operations(changes_only=True)

    def client(self, service: str, region: str = REGION) -> Any:
        """A client of the test's own, past the code under test."""
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=self.url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"total_max_attempts": 5}, proxies={}),  # a busy machine may reset a connection
        )

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        call = _call(environ, body)
        if call.key_id != "test":
            self.calls.append(call)
            for i in self.injected:
                if i.operation == call.operation and i.times > 0:
                    i.times -= 1
                    if i.lost:
                        b"".join(self._answer(call, environ, lambda *_: None))
                    return _error(i, environ, start_response)
        return self._answer(call, environ, start_response)

    def _answer(self, call: Call, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        answered = self.answers[call.operation](call) if call.operation in self.answers else None
        if answered is None:
            return self.inner(environ, start_response)
        status, kind, text = answered
        start_response(f"{status} Answered", [("Content-Type", kind), ("Content-Length", str(len(text.encode())))])
        return [text.encode()]


def _call(environ: dict[str, Any], body: bytes) -> Call:
    authorization = environ.get("HTTP_AUTHORIZATION", "")
    key_id, _, region, service, *_ = [*authorization.partition("Credential=")[2].split("/"), "", "", ""]
    parameters = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace")))
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    operation = parameters.get("Action") or target.rpartition(".")[2] or _rest(environ)
    return Call(operation, key_id, parameters, service, region, body, environ["PATH_INFO"])


def _rest(environ: dict[str, Any]) -> str:
    path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
    if path.rstrip("/").endswith("/rrset"):
        return "ListResourceRecordSets" if method == "GET" else "ChangeResourceRecordSets"
    if method == "GET" and "/tags/" in path:
        return "ListTagsForResource"
    if path.startswith("/zonalshifts"):
        return {"GET": "ListZonalShifts", "POST": "StartZonalShift", "DELETE": "CancelZonalShift"}[method]
    if "/operation/" in path:  # RPC v2
        return path.rpartition("/")[2]
    return f"{'Get' if method == 'GET' else method} {path}"


def _error(i: Injected, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if "HTTP_X_AMZ_TARGET" in environ:
        kind, text = "application/x-amz-json-1.1", f'{{"__type":"{i.code}","message":"{i.message}"}}'
    elif b"Version=2016-11-15" in environ["wsgi.input"].getvalue():  # EC2's own shape
        kind = "text/xml"
        text = (
            f"<Response><Errors><Error><Code>{i.code}</Code><Message>{i.message}</Message></Error></Errors></Response>"
        )
    else:
        kind = "text/xml"
        text = f"<ErrorResponse><Error><Code>{i.code}</Code><Message>{i.message}</Message></Error></ErrorResponse>"
    start_response(f"{i.status} Injected", [("Content-Type", kind), ("Content-Length", str(len(text)))])
    return [text.encode()]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def _server() -> Iterator[MockAws]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    mock = MockAws(inner=DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, mock, threaded=True, request_handler=_Quiet)
    mock.url = f"http://127.0.0.1:{server.port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield mock
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def aws(_server: MockAws) -> Iterator[MockAws]:
    from moto.moto_api._internal import moto_api_backend

    moto_api_backend.reset()
    _server.calls.clear()
    _server.injected.clear()
    _server.answers.clear()
    return _server


@dataclass(frozen=True)
class Network:
    vpc_id: str
    subnets: dict[str, list[str]]  # zone → subnet ids
    acl_id: str


@pytest.fixture
def network(aws: MockAws) -> Network:
    """A VPC with two consenting subnets in each of three zones, which share an ordinary ACL."""
    ec2 = aws.client("ec2")
    vpc_id = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets: dict[str, list[str]] = {}
    for n, zone in enumerate(ZONES):
        for m in range(2):
            subnet = ec2.create_subnet(
                VpcId=vpc_id,
                CidrBlock=f"10.0.{10 * n + m}.0/24",
                AvailabilityZone=zone,
                TagSpecifications=[{"ResourceType": "subnet", "Tags": [CONSENT]}],
            )["Subnet"]
            subnets.setdefault(zone, []).append(subnet["SubnetId"])
    (acl,) = ec2.describe_network_acls(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["NetworkAcls"]
    return Network(vpc_id, {z: sorted(s) for z, s in subnets.items()}, acl["NetworkAclId"])


@pytest.fixture
def target(aws: MockAws, network: Network) -> Target:
    return make_target(aws, network)


def make_target(mock: MockAws, /, network: Network | None = None, **changed: Any) -> Target:
    values: dict[str, Any] = {
        "name": "mock",
        "kind": "lab",
        "account_id": ACCOUNT,
        "region": REGION,
        "recovery_region": RECOVERY_REGION,
        "zones": ZONES,
        "aws": AwsAccess(endpoint_url=mock.url),
        "network": NetworkTarget(vpc_id=network.vpc_id) if network else None,
        "compute": ComputeTarget(asg_name="web"),
        "database": DatabaseTarget(
            instance_id="orders",
            host="127.0.0.1",
            port=5432,
            dbname="orders",
            user="drkit",
            replica_id="orders-replica",
        ),
    }
    return Target(**{**values, **changed})


@pytest.fixture
def permit() -> guard.Permit:
    return guard.Permit("run-1", _token=guard._TOKEN)


@pytest.fixture
def real() -> guard.Permit:
    """The permit of a real recovery."""
    return guard.Permit("run-1", real=True, _token=guard._TOKEN)


@pytest.fixture
def journal(tmp_path: Path) -> UndoJournal:
    return UndoJournal(tmp_path / "undo.jsonl", "run-1")


@pytest.fixture
def fresh_sessions() -> Iterator[None]:
    """Forget sessions before and after, for tests of what they keep: credentials, throttling, who the caller is."""
    from drkit.targets.aws import account

    account._session.cache_clear()
    yield
    account._session.cache_clear()


@pytest.fixture
def honest_promotion(monkeypatch: pytest.MonkeyPatch) -> None:
    """moto 5.2.5 still names the source of a replica that was promoted, and then cannot delete it."""
    from moto.rds.models import DBInstance, RDSBackend

    promote = RDSBackend.promote_read_replica

    def promote_read_replica(self: Any, wanted: Any) -> Any:
        database = self.databases[wanted["db_instance_identifier"]]
        if database.is_replica:
            self.find_db_from_id(database.source_db_instance_identifier).remove_replica(database)
        promote(self, wanted)
        database.source_db_instance_identifier = None
        return database

    def remove_replica(self: Any, replica: Any) -> None:
        names = (replica.db_instance_arn, replica.db_instance_identifier)
        self.replicas = [r for r in self.replicas if r not in names]

    monkeypatch.setattr(RDSBackend, "promote_read_replica", promote_read_replica)
    monkeypatch.setattr(DBInstance, "remove_replica", remove_replica)
