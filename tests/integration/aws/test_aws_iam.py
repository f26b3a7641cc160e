"""What the verbs of a recovery call, their undo included, is in their IAM lists (mock): nobody is denied that night."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from drkit import undo
from drkit.guard import Permit
from drkit.lab.moto_patches import replica_secrets_stand_alone
from drkit.targets import ComputeTarget, Target
from drkit.targets.aws import Backups, Database, Fences, Groups, Replication, Secrets, ZonalShifts, permissions
from drkit.undo import UndoJournal

from .conftest import CONSENT, RECOVERY_REGION, REGION, ZONES, MockAws, Network
from .fakes import BackupService, ZonalShiftService
from .test_aws_compute import group  # noqa: F401  (a fixture)
from .test_aws_database import make_replica, make_writer

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("honest_promotion", "group")]
RIVAL = {"region": RECOVERY_REGION, "instance_id": "orders-replica"}
Leave = dict[str, Any]  # permit and undo


@dataclass(frozen=True)
class World:
    aws: MockAws
    network: Network
    target: Target

    def alone(self) -> Replication:
        """Return the first region's instances when nobody follows the writer any more."""
        self.aws.client("rds", RECOVERY_REGION).promote_read_replica(DBInstanceIdentifier="orders-replica")
        return Replication(self.target)


def fence(w: World, leave: Leave) -> None:
    fences, ids = Fences(w.target), [w.network.subnets[ZONES[0]][1]]
    fences.plan_fence(ids)
    fences.fence(ids, instance_id="orders", rival=RIVAL, **leave)
    fences.plan_lift(ids)
    fences.lift(ids, instance_id="orders", rival=RIVAL, **leave)
    fences.fence(ids, instance_id="orders", rival=RIVAL, **leave)


def promote(w: World, leave: Leave) -> None:
    replicas = Replication(w.target, RECOVERY_REGION)
    replicas.plan_promote("orders-replica")
    replicas.promote("orders-replica", **leave)


def retire(w: World, leave: Leave) -> None:
    here = w.alone()
    here.plan_retire("orders", final_snapshot_id="last")
    here.retire("orders", final_snapshot_id="last", **leave)


def replicate(w: World, leave: Leave) -> None:
    here = Replication(w.target)
    settings = {**here.replica_settings("orders", "orders"), "DBInstanceIdentifier": "orders-3"}
    here.plan_create_replica(settings)
    here.create_replica(settings, **leave)


def restore(w: World, leave: Leave) -> None:
    service, backups = BackupService(w.aws), Backups(w.target)
    backups.automated("orders")
    backups.restore_to_time(service.arn(REGION), "a", None, {}, **leave)
    w.aws.client("rds").create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier="s1")
    backups.snapshots("orders")
    backups.restore_snapshot("s1", "b", {}, **leave)


def copy(w: World, leave: Leave) -> None:
    w.aws.client("rds").create_db_snapshot(DBInstanceIdentifier="orders", DBSnapshotIdentifier="s1")
    backups = Backups(w.target)
    arn = backups.snapshots("orders")[0].arn
    backups.plan_copy_snapshot(arn, "s2")
    backups.copy_snapshot(arn, "s2", RECOVERY_REGION, **leave)


def point(w: World, leave: Leave) -> None:
    w.aws.client("secretsmanager").create_secret(
        Name="db", SecretString=json.dumps({"host": "a", "port": 1}), Tags=[CONSENT],
        AddReplicaRegions=[{"Region": RECOVERY_REGION}],
    )  # fmt: skip
    replica_secrets_stand_alone()
    secrets = Secrets(w.target, RECOVERY_REGION)
    secrets.plan_point("db", {"host": "b", "port": 2})
    secrets.point("db", {"host": "b", "port": 2}, **leave)
    secrets.tag_replica("db", REGION, permit=leave["permit"])


def replicate_secret(w: World, leave: Leave) -> None:
    for region in (REGION, RECOVERY_REGION):
        w.aws.client("secretsmanager", region).create_secret(Name="db", SecretString="{}", Tags=[CONSENT])
    Secrets(w.target).plan_replicate("db", RECOVERY_REGION)
    Secrets(w.target).replicate("db", RECOVERY_REGION, permit=leave["permit"])


def scale(w: World, leave: Leave) -> None:
    Groups(w.target).plan_scale("web", 4)
    Groups(w.target).scale("web", 4, **leave)


def shift(w: World, leave: Leave) -> None:
    ZonalShiftService(w.aws)
    subnets = [w.network.subnets[z][0] for z in ZONES[:2]]
    (made,) = w.aws.client("elbv2").create_load_balancer(Name="web", Subnets=subnets, Tags=[CONSENT])["LoadBalancers"]
    shifts = ZonalShifts(replace(w.target, compute=ComputeTarget(load_balancer_arn=made["LoadBalancerArn"])))
    shifts.plan_start(ZONES[0])
    shifts.start(ZONES[0], comment="", **leave)
    shifts.plan_cancel()
    shifts.cancel(**leave)


def multi_az(w: World, leave: Leave) -> None:
    w.aws.client("rds").modify_db_instance(DBInstanceIdentifier="orders", MultiAZ=False, ApplyImmediately=True)
    Database(w.target).plan_make_multi_az("orders")
    Database(w.target).make_multi_az("orders", **leave)


CASES: dict[str, tuple[Callable[[World, Leave], None], set[str]]] = {
    # With what moto asks for no leave: tags given with a call, and the snapshot that a deletion makes.
    "IAM_FENCE": (fence, set()),
    "IAM_PROMOTE_FOR_GOOD": (promote, set()),
    "IAM_RETIRE": (retire, {"rds:AddTagsToResource", "rds:CreateDBSnapshot"}),
    "IAM_REPLICATE": (replicate, {"rds:AddTagsToResource"}),
    "IAM_RESTORE": (restore, {"rds:AddTagsToResource"}),
    "IAM_SNAPSHOT_COPY": (copy, {"rds:AddTagsToResource"}),
    "IAM_SECRET_POINT": (point, set()),
    "IAM_SECRET_REPLICATE": (replicate_secret, set()),
    "IAM_SCALE": (scale, set()),
    "IAM_SHIFT": (shift, set()),
    "IAM_MULTI_AZ": (multi_az, set()),
}


@pytest.mark.parametrize("name", CASES)
def test_a_verb_and_its_undo_call_what_their_list_says_and_no_more(
    name: str, aws: MockAws, network: Network, target: Target, permit: Permit, journal: UndoJournal
) -> None:
    play, silent = CASES[name]
    make_replica(aws, make_writer(aws))
    play(World(aws, network, target), {"permit": permit, "undo": journal})
    undo.replay(journal, target)
    called = {c.iam_action for c in aws.calls} - set(permissions.IAM_ALWAYS)
    assert called == set(getattr(permissions, name)) - silent
