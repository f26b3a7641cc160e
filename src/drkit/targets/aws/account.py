"""One AWS account as one role sees it: the only place where AWS clients are made, and where AWS's errors become ours.

Clients have explicit time-outs and adaptive retries, the endpoint comes from the target file and never from the
environment, and whatever a call ends with, the caller sees a TargetError with AWS's own code and a hint. Before each
call that changes something AWS is asked whose account it would change.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, overload

from drkit.errors import Refused, TargetError, UsageError
from drkit.guard import Permit
from drkit.targets import AwsAccess, Target

if TYPE_CHECKING:
    import boto3
    from botocore.config import Config
    from botocore.session import Session as BotocoreSession
    from mypy_boto3_arc_zonal_shift import ARCZonalShiftClient
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_elbv2 import ElasticLoadBalancingv2Client
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_rds import RDSClient
    from mypy_boto3_route53 import Route53Client
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_secretsmanager import SecretsManagerClient
    from mypy_boto3_ssm import SSMClient
    from mypy_boto3_sts import STSClient

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
RUN_TAG = "drkit:run"  # on everything that drkit makes; its value is the run's id
# Attempts of one call, throttling and lost connections included. A lab that is gone should be noticed within seconds.
ATTEMPTS_LAB, ATTEMPTS_AWS = 4, 8
_READS = ("Describe", "Get", "List", "Simulate", "AssumeRole")  # operations that change nothing, by their first word

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "Forbidden"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_BAD_KEYS = {"InvalidClientTokenId", "AuthFailure", "UnrecognizedClientException", "SignatureDoesNotMatch"}
_THROTTLED = {
    "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled", "RequestThrottledException",
    "RequestLimitExceeded", "TooManyRequestsException", "BandwidthLimitExceeded", "SlowDown", "PriorRequestNotComplete",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Caller:
    """Who AWS says we are."""

    account_id: str
    arn: str

    @property
    def role_arn(self) -> str:
        """Return the IAM principal behind the caller: of an assumed-role session the role, else the ARN itself."""
        session = re.fullmatch(r"arn:([\w-]+):sts::(\d+):assumed-role/([^/]+)/.*", self.arn)
        return f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}" if session else self.arn


class Account:
    """One account through one role. Cheap to make: sessions and clients are shared by all with the same access.

    home_region: where STS is asked who we are and for a role's credentials, the target's first region unless named.
    A recovery names the region it works in: the first one may not answer on that night.
    """

    def __init__(self, target: Target, home_region: str = "") -> None:
        self.target = target
        self.home_region = home_region or target.region
        self._session = _session(target.aws, target.account_id, target.kind, self.home_region)

    # One overload a service, so that every call in this package is checked against AWS's own model.
    @overload
    def client(self, service: Literal["arc-zonal-shift"], region: str = "") -> ARCZonalShiftClient: ...
    @overload
    def client(self, service: Literal["autoscaling"], region: str = "") -> AutoScalingClient: ...
    @overload
    def client(self, service: Literal["cloudwatch"], region: str = "") -> CloudWatchClient: ...
    @overload
    def client(self, service: Literal["ec2"], region: str = "") -> EC2Client: ...
    @overload
    def client(self, service: Literal["elbv2"], region: str = "") -> ElasticLoadBalancingv2Client: ...
    @overload
    def client(self, service: Literal["iam"], region: str = "") -> IAMClient: ...
    @overload
    def client(self, service: Literal["rds"], region: str = "") -> RDSClient: ...
    @overload
    def client(self, service: Literal["route53"], region: str = "") -> Route53Client: ...
    @overload
    def client(self, service: Literal["s3"], region: str = "") -> S3Client: ...
    @overload
    def client(self, service: Literal["ssm"], region: str = "") -> SSMClient: ...
    @overload
    def client(self, service: Literal["sts"], region: str = "") -> STSClient: ...
    @overload
    def client(self, service: Literal["secretsmanager"], region: str = "") -> SecretsManagerClient: ...
    def client(self, service: str, region: str = "") -> Any:
        """Return the client of a service, region = the home region unless named; thread-safe, made once.

        Every call on it, paginators and waiters included, raises TargetError (never botocore's errors), except for
        parameters that do not fit AWS's model, which is a defect of ours. One that changes something raises Refused,
        and is not sent, unless the credentials are of the target's account at that moment.
        """
        return self._session.client(service, region or self.home_region)

    def caller(self) -> Caller:
        """Ask AWS who we are."""
        return self._session.caller(self.home_region)

    def environment(self) -> dict[str, str]:
        """Return these credentials as the environment variables that other AWS tools read; {} if there are none.

        Those of a role are short-lived: ask again before each use.
        """
        return self._session.environment(self.home_region)

    def assert_account(self) -> None:
        """Raise Refused unless the caller's account is the target's; AWS is asked each time."""
        self._session.assert_account(self.home_region)

    def may_break(self, permit: Permit) -> None:
        """Raise unless the permit still holds and the account is the right one: the first line of all that breaks."""
        permit.check()
        self.assert_account()

    def consented(self, tags: Mapping[str, str]) -> bool:
        """Return whether a resource with these tags agreed to be broken."""
        key, value = self.target.consent_tag
        return tags.get(key) == value

    def must_consent(self, resource: str, tags: Mapping[str, str], permit: Permit | None = None) -> None:
        """Raise Refused unless the resource agreed: asked again just before it is broken, tags change.

        With the permit of a real recovery it need not: a person approved it by name. Without a permit (undo) it must.
        """
        if permit is not None and permit.real:
            return
        if not self.consented(tags):
            key, value = self.target.consent_tag
            raise Refused(
                f"not breaking {resource}: it does not carry the tag {key}={value}",
                f"tag it with {key}={value} if it may be broken",
            )


def tags_of(tags: Iterable[Any] | None) -> dict[str, str]:
    """Return AWS's list of {"Key": …, "Value": …} as a mapping."""
    return {tag["Key"]: tag.get("Value", "") for tag in tags or ()}


def named(value: str, what: str) -> str:
    """Return the name; raise Refused if it is empty, for an empty name can mean "all" to an API."""
    if not value.strip():
        raise Refused(f"no {what} was named", "an empty name could mean everything; name exactly one")
    return value


# --- sessions ---------------------------------------------------------------------------------------------------------


class _Session:
    """Credentials and the clients made with them."""

    def __init__(self, access: AwsAccess, account_id: str, attempts: int, home_region: str) -> None:
        self._access = access
        self._home_region = home_region
        self._account_id = account_id
        self._attempts = attempts
        self._lock = threading.Lock()
        self._boto3: boto3.Session | None = None
        self._clients: dict[tuple[str, str], Any] = {}

    def client(self, service: str, region: str) -> Any:
        with self._lock:  # making clients is not thread-safe, using them is
            client = self._clients.get((service, region))
            if client is None:
                client = self._clients[service, region] = self._make(service, region)
            return client

    def _make(self, service: str, region: str) -> Any:
        import boto3
        from botocore.exceptions import BotoCoreError

        try:
            if self._boto3 is None:
                self._boto3 = boto3.Session(
                    botocore_session=_botocore_session(self._access, self._config(), self._home_region)
                )
            client: Any = self._boto3.client(
                service,  # type: ignore[call-overload]  # its stubs know literal names only
                region_name=region,
                endpoint_url=self._access.endpoint_url,
                config=self._config(),
            )
        except BotoCoreError as e:  # a profile that does not exist, an unreadable config file
            raise _translated(service, "", e) from e
        client.meta.events.register_first("before-call", lambda model, **_: self._check_before_change(model, region))
        client.meta.events.register_last("after-call", _raise_answered)
        client.meta.events.register_last("after-call-error", _raise_unanswered)
        return client

    def _config(self) -> Config:
        from botocore.config import Config

        return Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "adaptive", "total_max_attempts": self._attempts},
            proxies={} if _is_sealed(self._access) else None,  # no proxy of the environment's stands before a lab
            user_agent_extra="drkit",
            s3={"addressing_style": "path"} if self._access.endpoint_url else None,
        )

    def environment(self, region: str) -> dict[str, str]:
        from botocore.exceptions import BotoCoreError, ClientError

        self.client("sts", region)  # makes the session
        assert self._boto3 is not None
        try:
            credentials = self._boto3.get_credentials()
            frozen = credentials.get_frozen_credentials() if credentials else None
        except (BotoCoreError, ClientError) as e:
            raise _translated("sts", "AssumeRole", e) from e
        if frozen is None or not (frozen.access_key and frozen.secret_key):
            return {}
        token = {"AWS_SESSION_TOKEN": frozen.token} if frozen.token else {}
        return {"AWS_ACCESS_KEY_ID": frozen.access_key, "AWS_SECRET_ACCESS_KEY": frozen.secret_key, **token}

    def caller(self, region: str) -> Caller:
        answer = self.client("sts", region).get_caller_identity()
        return Caller(answer["Account"], answer["Arn"])

    def assert_account(self, region: str) -> None:
        caller = self.caller(region)
        if caller.account_id != self._account_id:
            raise Refused(
                f"not changing anything: the target is in account {self._account_id}, "
                f"but these credentials ({caller.arn}) belong to account {caller.account_id}",
                "name the right profile or role in the target file (aws.profile, aws.assume_role_arn)",
            )

    def _check_before_change(self, model: Any, region: str) -> None:
        """Called by botocore before each call, once for all its retries."""
        if not model.name.startswith(_READS):
            self.assert_account(region)


@cache
def _session(access: AwsAccess, account_id: str, kind: str, home_region: str) -> _Session:
    if kind == "lab" and not _is_sealed(access):
        raise UsageError(
            "a lab target must name its endpoint_url and no profile or role: it would reach AWS itself",
            "make the lab again: drkit lab down && drkit lab up",
        )
    return _Session(access, account_id, ATTEMPTS_LAB if kind == "lab" else ATTEMPTS_AWS, home_region)


def _is_sealed(access: AwsAccess) -> bool:
    """Return whether nothing of this machine's AWS set-up may be read: an emulator's endpoint, and no credentials."""
    return bool(access.endpoint_url) and not access.profile and not access.assume_role_arn


def _botocore_session(access: AwsAccess, config: Config, region: str) -> BotocoreSession:
    if _is_sealed(access):
        return _sealed_session()
    session = _configured_session(access)
    if not access.assume_role_arn:
        return session

    from botocore.credentials import (
        AssumeRoleCredentialFetcher,
        CredentialProvider,
        CredentialResolver,
        DeferredRefreshableCredentials,
    )

    def create_client(service: str, **kwargs: Any) -> Any:
        return session.create_client(
            service, **{"region_name": region, **kwargs, "endpoint_url": access.endpoint_url, "config": config}
        )

    extra = {"RoleSessionName": f"drkit-{os.getpid()}"}
    if access.external_id:
        extra["ExternalId"] = access.external_id
    source = session.get_credentials()
    if source is None:
        from botocore.exceptions import NoCredentialsError

        raise NoCredentialsError
    fetcher = AssumeRoleCredentialFetcher(create_client, source, access.assume_role_arn, extra_args=extra)
    role = DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    class AsRole(CredentialProvider):
        METHOD = CANONICAL_NAME = "assume-role"

        def load(self) -> Any:
            return role

    as_role = _configured_session(access)
    as_role.register_component("credential_provider", CredentialResolver([AsRole()]))
    return as_role


def _configured_session(access: AwsAccess) -> BotocoreSession:
    """Return a session with this machine's AWS configuration, except for endpoints: those come from the target only."""
    from botocore.session import Session

    session = Session(profile=access.profile)
    session.set_config_variable("ignore_configured_endpoint_urls", True)
    return session


def _sealed_session() -> BotocoreSession:
    """Return a session that reads no environment variable, no configuration file and no instance metadata."""
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES, ConstantProvider
    from botocore.session import Session

    session = Session()
    store = session.get_component("config_store")
    for name, (_, _, default, _) in BOTOCORE_DEFAUT_SESSION_VARIABLES.items():
        store.set_config_provider(name, ConstantProvider(default))
    for name in ("config_file", "credentials_file"):
        store.set_config_provider(name, ConstantProvider(os.devnull))
    session.set_credentials("lab", "lab")
    return session


# --- errors -----------------------------------------------------------------------------------------------------------


def _raise_answered(http_response: Any, parsed: Any, model: Any, **_: Any) -> None:
    """Called by botocore after the last retry of a call that was answered."""
    if http_response.status_code < 300:
        return
    error = (parsed or {}).get("Error", {})
    code, message = str(error.get("Code", "")), str(error.get("Message", ""))
    raise _refusal(_action(model), code, message or f"HTTP {http_response.status_code}")


def _raise_unanswered(exception: Exception, event_name: str, **__: Any) -> None:
    """Called by botocore after the last retry of a call that was not answered."""
    if isinstance(exception, TargetError):
        return
    _, service, operation = event_name.split(".", 2)
    raise _translated(_iam_prefix(service), operation, exception) from exception


def _action(model: Any) -> str:
    """Return the call as IAM names it: "ec2:StopInstances"."""
    return f"{_iam_prefix(model.service_model.service_id.hyphenize())}:{model.name}"


def _iam_prefix(service_id: str) -> str:
    prefixes = {"arc-zonal-shift": "arc-zonal-shift", "elastic-load-balancing-v2": "elasticloadbalancing"}
    return prefixes.get(service_id, service_id.replace("-", ""))


def _refusal(action: str, code: str, message: str) -> TargetError:
    """Return what AWS's answer means to a person."""
    if code in _DENIED:
        denied = re.search(r"not authorized to perform: ([\w-]+:\w+)", message)
        missing = denied[1] if denied else action
        return TargetError(
            f"access denied: these credentials may not {missing}: {message}",
            f"allow {missing} for them; drkit doctor EXPERIMENT --target NAME lists all actions that it needs",
            code,
        )
    if code in _EXPIRED:
        return TargetError(f"{action}: the credentials have expired", "log in again (aws sso login)", code)
    if code in _BAD_KEYS:
        return TargetError(f"{action}: AWS does not know these credentials: {message}", "check aws.profile", code)
    if code in _THROTTLED:
        return TargetError(
            f"{action}: AWS is throttling, and retries did not help", "try again later or raise the API's limit", code
        )
    return TargetError(f"{action} failed: {message} ({code})", "", code)


def _translated(service: str, operation: str, e: Exception) -> TargetError:
    """Return what an exception of botocore means to a person."""
    from botocore import exceptions as b

    action = f"{service}:{operation}".rstrip(":")
    match e:
        case b.ClientError():  # getting credentials was refused: the call itself was not sent
            refused = e.response.get("Error", {})
            return _refusal(f"sts:{e.operation_name}", refused.get("Code", ""), refused.get("Message", ""))
        case b.ConnectTimeoutError() | b.EndpointConnectionError() | b.ProxyConnectionError() | b.SSLError():
            return TargetError(
                f"{action}: the endpoint cannot be reached: {e}",
                "is the lab up (drkit lab status), or the network there?",
                "Unreachable",
            )
        case b.ReadTimeoutError() | b.ConnectionClosedError() | b.HTTPClientError():
            return TargetError(
                f"{action}: no answer: {e}", "it may or may not have been done; the undo is on disk", "NoAnswer"
            )
        case b.ProfileNotFound():
            return TargetError(f"there is no AWS profile {e.kwargs.get('profile')!r}", "see ~/.aws/config", "NoProfile")
        case b.NoCredentialsError() | b.PartialCredentialsError():
            return TargetError(
                f"{action}: there are no AWS credentials",
                "name a profile in the target file (aws.profile)",
                "NoCredentials",
            )
        case b.SSOError() | b.TokenRetrievalError() | b.CredentialRetrievalError():
            return TargetError(f"{action}: no credentials: {e}", "log in again (aws sso login)", "ExpiredToken")
        case _:
            return TargetError(f"{action} failed: {e}", "", type(e).__name__)
