"""Secrets Manager: where a service reads which database it has, pointed to another one and back.

A secret's text is in no log, journal or error of drkit's: only its host and port are ever named, and the user and
database that a server refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drkit import undo as undo_journal
from drkit.errors import TargetError, UsageError
from drkit.guard import Permit
from drkit.model import Effect
from drkit.targets import Target
from drkit.targets.aws.account import Account, named, tags_of
from drkit.undo import UndoJournal

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager.type_defs import DescribeSecretResponseTypeDef, ReplicaRegionTypeTypeDef, TagTypeDef

IAM_SECRET_POINT = (
    "secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue",
    "secretsmanager:StopReplicationToReplica", "secretsmanager:TagResource",
)  # fmt: skip
IAM_SECRET_REPLICATE = ("secretsmanager:DescribeSecret", "secretsmanager:ReplicateSecretToRegions")
ADDRESS = ("host", "port")  # the keys of a secret that drkit changes
REPLICA_TAG = "drkit:was-replica-of"  # on a secret that drkit made one of its own: the region that it was a replica of


class Secrets:
    """The secrets of one region, those replicated into it among them."""

    def __init__(self, target: Target, region: str = "") -> None:
        self._region = region or target.region
        self._account = Account(target, self._region)
        self._secrets = self._account.client("secretsmanager")

    def value(self, secret_id: str) -> dict[str, Any]:
        """Return what a secret holds. Never print it: the password is in it. TargetError unless it is JSON."""
        text = self._secrets.get_secret_value(SecretId=named(secret_id, "secret")).get("SecretString", "")
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise TargetError(
                f"the secret {secret_id} in {self._region} is no JSON object",
                'it has to look like {"host": …, "port": …, "username": …, "password": …}',
            ) from None
        return value

    def primary_of(self, secret_id: str) -> str:
        """Return the region whose secret this one is a replica of; "" if it is one of its own."""
        return self._primary_elsewhere(self._described(secret_id))

    def was_replica_of(self, secret_id: str) -> str:
        """Return the region that a secret of its own was a replica of until drkit changed it; "" for any other."""
        return tags_of(self._described(secret_id).get("Tags")).get(REPLICA_TAG, "")

    def points_to(self, secret_id: str, address: Mapping[str, Any]) -> bool:
        """Return whether a secret names this host and port."""
        return _points_to(self.value(secret_id), _address(address))

    def plan_point(self, secret_id: str, address: Mapping[str, Any]) -> tuple[Effect, ...]:
        """Return what pointing a secret to another database would do; nothing if it points there."""
        old, wanted = self.value(secret_id), _address(address)
        if _points_to(old, wanted):
            return ()
        described = self._described(secret_id)
        consented = self._account.consented(tags_of(described.get("Tags")))
        primary = self._primary_elsewhere(described)
        alone = Effect(
            call="secretsmanager:StopReplicationToReplica",
            resource=secret_id,
            region=self._region,
            what=f"make {secret_id} in {self._region} a secret of its own, and tag it so: it is a replica of "
            f"{primary}'s, and nobody can change a replica",
            undo=f"none: it stays one of its own, tagged as {primary}'s; drkit undo says how to replicate it again",
            iam=IAM_SECRET_POINT,
            consented=consented,
        )
        put = Effect(
            call="secretsmanager:PutSecretValue",
            resource=secret_id,
            region=self._region,
            what=f"point {secret_id} from {_words(old)} to {_words({**old, **wanted})}",
            undo=f"point {secret_id} to {_words(old)} again",
            iam=IAM_SECRET_POINT,
            consented=consented,
        )
        return (alone, put) if primary else (put,)

    def point(
        self,
        secret_id: str,
        address: Mapping[str, Any],
        *,
        was_replica_of: str = "",
        permit: Permit,
        undo: UndoJournal,
    ) -> bool:
        """Give a secret another host and port, its other keys stay; return whether anything was asked for.

        address: {"host": …, "port": …}. A replica is made a secret of its own first, as nobody can change a replica;
        `tag_replica` says so on it afterwards. was_replica_of: the region of its primary, should an attempt before this
        one have come no further than that. Raises Refused without consent.
        """
        wanted = _address(address)
        named(secret_id, "secret")
        self._account.may_break(permit)
        described = self._described(secret_id)
        self._account.must_consent(f"secret {secret_id}", tags_of(described.get("Tags")), permit)
        old, primary = self.value(secret_id), self._primary_elsewhere(described)
        if _points_to(old, wanted):
            return False
        undo.will(
            "restore_secret",
            region=self._region,
            aws_region=self._region,
            secret_id=secret_id,
            host=old.get("host"),
            port=old.get("port"),
            replica_of=primary or was_replica_of,
        )
        if primary:
            permit.check()
            self._stand_alone(secret_id)
        permit.check()
        try:
            self._put(secret_id, old, wanted)
        except TargetError as e:
            if "replica" not in e.message.lower():
                raise
            self._stand_alone(secret_id)
            self._put(secret_id, old, wanted)
        return True

    def tag_replica(self, secret_id: str, primary: str, *, permit: Permit) -> None:
        """Say on a secret of its own that it was a replica of a region's, so that a failback replicates it again."""
        self._account.may_break(permit)
        permit.check()
        self._tag(secret_id, primary)

    def _tag(self, secret_id: str, primary: str) -> None:
        tag: TagTypeDef = {"Key": REPLICA_TAG, "Value": named(primary, "region")}
        self._secrets.tag_resource(SecretId=named(secret_id, "secret"), Tags=[tag])

    def plan_replicate(self, secret_id: str, to: str) -> tuple[Effect, ...]:
        """Return what making another region's secret a replica of this one would do."""
        return (
            Effect(
                call="secretsmanager:ReplicateSecretToRegions",
                resource=secret_id,
                region=self._region,
                what=f"replicate {secret_id} from {self._region} to {to} again, over the secret of its own there",
                undo=f"none: what was changed in {to} since is gone",
                iam=IAM_SECRET_REPLICATE,
                consented=all(
                    self._account.consented(tags_of(s._described(secret_id).get("Tags"))) for s in (self, self._in(to))
                ),
            ),
        )

    def replicate(self, secret_id: str, to: str, *, permit: Permit) -> None:
        """Make another region's secret of the same name a replica of this one, whatever it holds.

        It is encrypted there with the key that it has there now. Asks for nothing while it is under way. Raises Refused
        without consent to either secret.
        """
        self._account.may_break(permit)
        for secrets in (self, self._in(to)):
            tags = tags_of(secrets._described(secret_id).get("Tags"))
            self._account.must_consent(f"secret {secret_id}", tags, permit)
        if self.replication(secret_id, to)[0] == "InProgress":
            return
        wanted: ReplicaRegionTypeTypeDef = {"Region": named(to, "region")}
        if key := self._in(to)._described(secret_id).get("KmsKeyId"):
            wanted["KmsKeyId"] = key
        permit.check()
        self._secrets.replicate_secret_to_regions(
            SecretId=secret_id, AddReplicaRegions=[wanted], ForceOverwriteReplicaSecret=True
        )

    def replication(self, secret_id: str, to: str) -> tuple[str, str]:
        """Return how the replication to a region stands: "InSync", "InProgress", "Failed" or "", and AWS's words."""
        for replica in self._described(secret_id).get("ReplicationStatus", []):
            if replica.get("Region") == to:
                return replica.get("Status", ""), replica.get("StatusMessage", "")
        return "", ""

    def _in(self, region: str) -> Secrets:
        return Secrets(self._account.target, region)

    def _put(self, secret_id: str, old: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        """Store a new version; of host and port, one that is None is left out.

        botocore gives the call a token, so a retry of one whose answer was lost stores no other version.
        """
        new = {k: v for k, v in {**old, **wanted}.items() if v is not None or k not in ADDRESS}
        if isinstance(old.get("port"), str) and "port" in new:  # as its readers expect it
            new["port"] = str(new["port"])
        self._secrets.put_secret_value(SecretId=secret_id, SecretString=json.dumps(new))

    def _stand_alone(self, secret_id: str) -> None:
        """End the replication to this region's secret; one that is no replica (any more) is fine."""
        try:
            self._secrets.stop_replication_to_replica(SecretId=secret_id)
        except TargetError:
            if self._primary_elsewhere(self._described(secret_id)):
                raise

    def _described(self, secret_id: str) -> DescribeSecretResponseTypeDef:
        return self._secrets.describe_secret(SecretId=named(secret_id, "secret"))

    def _primary_elsewhere(self, described: DescribeSecretResponseTypeDef) -> str:
        """Return the region of the primary that this secret is a replica of; "" if it is none."""
        primary = described.get("PrimaryRegion", "")
        return "" if primary == self._region else primary


def _address(address: Mapping[str, Any]) -> dict[str, Any]:
    """Return host and port; UsageError for anything else."""
    if set(address) != set(ADDRESS):
        raise UsageError("a secret is pointed to a host and a port, and nothing else", '{"host": "…", "port": 5432}')
    return {"host": named(str(address["host"]), "host"), "port": int(address["port"])}


def _points_to(value: Mapping[str, Any], address: Mapping[str, Any]) -> bool:
    return all(str(value.get(k)) == str(address[k]) for k in ADDRESS)


def _words(value: Mapping[str, Any]) -> str:
    return f"{value.get('host', 'no host')}:{value.get('port', 'no port')}"


@undo_journal.verb("restore_secret")
def restore_secret(
    target: Target,
    *,
    aws_region: str,
    secret_id: str,
    host: str | None = None,
    port: int | str | None = None,
    replica_of: str = "",
) -> str:
    """Give a secret the host and port back that it had; whatever else is in it now stays.

    replica_of: the region whose secret it was a replica of, "" for none. That region may be the one that is lost, so it
    is not asked to replicate again: the secret is tagged, for failback, and the words say what to do.
    """
    secrets = Secrets(target, aws_region)
    Account(target, aws_region).assert_account()
    now = secrets.value(secret_id)
    old = {"host": host, "port": port}
    there = all(now.get(k) == old[k] for k in ADDRESS)
    if not there:
        secrets._put(secret_id, now, old)
    said = f"{secret_id} points to {_words(now)}" if there else f"pointed {secret_id} to {host}:{port} again"
    if not replica_of or secrets.primary_of(secret_id):
        return said
    with contextlib.suppress(TargetError):  # the words below are what counts
        secrets._tag(secret_id, replica_of)
    return (
        f"{said}; it is no replica of {replica_of}'s any more: aws secretsmanager replicate-secret-to-regions"
        f" --region {replica_of} --secret-id {secret_id} --add-replica-regions Region={aws_region}"
        " --force-overwrite-replica-secret"
    )
