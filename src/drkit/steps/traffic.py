"""Where clients go: DNS records, the secret that names the database, and whether the service answers there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drkit.errors import Refused, TargetError, UsageError
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.fence import must_be_fenced
from drkit.steps.names import database_of, endpoint_of, instance_of, region_of, service_of
from drkit.targets import Target, postgres
from drkit.targets.aws.dns import IAM_POINT
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.secrets import ADDRESS, IAM_SECRET_POINT, IAM_SECRET_REPLICATE
from drkit.targets.postgres import Endpoint

_IAM_LOOK = ("rds:DescribeDBInstances",)
_WRONG = ("28P01", "3D000")  # SQLSTATE: invalid password, no such database


def _writer_record(target: Target) -> tuple[str, str]:
    database = database_of(target)
    if not (database.dns_record and database.hosted_zone_id):
        raise UsageError(
            f"target {target.name} names no DNS record of its writer",
            "add database.dns_record and database.hosted_zone_id: without one, every client has to be told",
        )
    return database.dns_record, database.hosted_zone_id


def _service_record(target: Target, region: str) -> tuple[str, str, str]:
    service = service_of(target)
    host = service.host if region == "first" else service.recovery_host
    region_of(target, region)
    if not (service.dns_record and service.hosted_zone_id and host):
        raise UsageError(
            f"target {target.name} does not say how its service is pointed to the {region} region",
            "add service.dns_record, service.hosted_zone_id, service.host and service.recovery_host",
        )
    return service.dns_record, service.hosted_zone_id, host


@asks(*IAM_POINT)
@step(purpose="check")
def can_be_pointed(recovery: Recovery, *, region: str) -> Step:
    """The DNS records of writer and service are there and simple ones, and the target says where they would point."""
    from drkit.targets.aws import Records

    target = recovery.target

    def done() -> bool:
        region_name = region_of(target, region)
        for name, zone in (_writer_record(target), _service_record(target, region)[:2]):
            Records(target, zone, region_name).value(name)
        return True

    return Step(done=done)


@asks(*_IAM_LOOK, *IAM_POINT)
@step(purpose="check")
def leads_to(recovery: Recovery, *, instance: str, region: str) -> Step:
    """The writer's DNS record points to this instance: it is the one that serves."""
    from drkit.targets.aws import Records

    target = recovery.target
    record, zone = _writer_record(target)

    def done() -> bool:
        name = region_of(target, region)
        host = endpoint_of(target, name, instance_of(target, instance))[0]
        there = Records(target, zone, name).value(record)
        if there != host:
            raise Refused(f"{record} points to {there}, not to {host}", "another instance serves: which one is it?")
        return True

    return Step(done=done)


# --- the database -----------------------------------------------------------------------------------------------------


def _plan_point_writer(
    target: Target, *, instance: str, region: str, behind: str = "", behind_region: str = "first"
) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database, Records

    name, zone = _writer_record(target)
    database, instance_id = Database(target, region_of(target, region)), instance_of(target, instance)
    host = database.instance(instance_id).host if database.exists(instance_id) else f"the endpoint of {instance_id}"
    return Records(target, zone, region_of(target, region)).plan_point(name, host)


@asks(*_IAM_LOOK, *IAM_POINT)
@step(plan=_plan_point_writer)
def point_writer(
    recovery: Recovery, *, instance: str, region: str, behind: str = "", behind_region: str = "first"
) -> Step:
    """Point the writer's DNS record at an instance; its TTL stays.

    behind: the step that fenced the old writer, whose fence is asked again the moment before: it may be hours old.
    By hand: aws route53 change-resource-record-sets, UPSERT of the CNAME.
    """
    from drkit.targets.aws import Records

    target = recovery.target
    record, zone = _writer_record(target)
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    records = Records(target, zone, region_name)

    def host() -> str:
        return endpoint_of(target, region_name, instance_id)[0]

    def act() -> None:
        if behind:
            must_be_fenced(recovery, fence=behind, region=behind_region)
        records.point(record, host(), permit=recovery.permit, undo=recovery.undo)

    return Step(done=lambda: records.value(record) == host(), act=act, result=lambda: {"points_to": host()})


def _plan_point_secret(target: Target, *, instance: str, region: str, instance_region: str = "") -> tuple[Effect, ...]:
    from drkit.targets.aws import Database, Secrets

    secret_id = database_of(target).secret_id
    if not secret_id:
        return ()
    instance_id, its_region = instance_of(target, instance), region_of(target, instance_region or region)
    if not Database(target, its_region).exists(instance_id):
        return ()  # it is made on the way: its address is not known yet
    address = _address(endpoint_of(target, its_region, instance_id))
    return Secrets(target, region_of(target, region)).plan_point(secret_id, address)


def _observe_secret(recovery: Recovery, *, instance: str, region: str) -> Facts:
    from drkit.targets.aws import Secrets

    target = recovery.target
    secret_id = database_of(target).secret_id
    return {"was_replica_of": Secrets(target, region_of(target, region)).primary_of(secret_id) if secret_id else ""}


@asks(*_IAM_LOOK, *IAM_SECRET_POINT)
@step(plan=_plan_point_secret, observe=_observe_secret)
def point_secret(recovery: Recovery, *, instance: str, region: str, facts: Facts) -> Step:
    """Let the region's secret name the instance as the service's database, and try a login with it.

    A wrong password stops here. A replica secret is made one of its own for it, and tagged so; failback replicates it
    again. A target without database.secret_id keeps its service on the DNS record: nothing is to be done then.
    By hand: aws secretsmanager put-secret-value --secret-id SECRET --region REGION (a replica first:
    stop-replication-to-replica)
    """
    from drkit.targets.aws import Secrets

    target = recovery.target
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    secret_id = database_of(target).secret_id
    if not secret_id:
        return Step(done=lambda: True, result=lambda: {"secret": "none"})
    secrets, was = Secrets(target, region_name), str(facts["was_replica_of"])
    found: dict[str, str] = {}

    def act() -> None:
        there = _address(endpoint_of(target, region_name, instance_id))
        secrets.point(secret_id, there, was_replica_of=was, permit=recovery.permit, undo=recovery.undo)
        if was and not secrets.primary_of(secret_id):
            try:
                secrets.tag_replica(secret_id, was, permit=recovery.permit)
            except TargetError as e:  # only failback needs it
                recovery.say(f"{secret_id} could not be tagged as a former replica of {was}'s: {e.message}")
                found["not_tagged"] = e.message
            found["replica_of_before"] = was

    def done() -> bool:
        at = endpoint_of(target, region_name, instance_id)
        if not secrets.points_to(secret_id, _address(at)):
            return False
        untagged = was and "replica_of_before" not in found and not secrets.primary_of(secret_id)
        if untagged and secrets.was_replica_of(secret_id) != was:
            return False  # a killed attempt came as far as that
        found["opens"] = opens(target, secret_id, secrets.value(secret_id), at)
        return True

    return Step(done=done, act=act, result=lambda: found)


def _address(at: Endpoint) -> Facts:
    return {"host": at[0], "port": at[1]}


def opens(target: Target, secret_id: str, says: Mapping[str, Any], at: Endpoint) -> str:
    """Return whether a server lets in who comes with what a secret holds: "yes", or why nobody knows.

    Raises Refused for a wrong password or a database that is not there; never with the password in it.
    """
    user, password = says.get("username"), says.get("password")
    if not (user and password):
        return "not tried: it holds no username and password"
    dbname = str(says.get("dbname") or database_of(target).dbname)
    try:
        postgres.log_in(target, at, user=str(user), password=str(password), dbname=dbname)
    except TargetError as e:
        if e.code not in _WRONG:  # a server that is full, or lets this machine in with other means only
            return f"not known: {e.message}"
        raise Refused(
            f"the secret {secret_id} does not open {at[0]}: {e.message}",
            "put the password that this server knows into the secret, or set the secret's on the server; then resume",
        ) from None
    return "yes"


@asks(*_IAM_LOOK, "secretsmanager:GetSecretValue")
@step(purpose="check")
def secret_opens(recovery: Recovery, *, instance: str, region: str) -> Step:
    """A login with what the region's secret holds works on this instance, to which it does not point yet.

    Nothing to do without database.secret_id.
    """
    from drkit.targets.aws import Secrets

    target = recovery.target
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    secret_id = database_of(target).secret_id
    if not secret_id:
        return Step(done=lambda: True, result=lambda: {"secret": "none"})
    found: dict[str, str] = {}

    def done() -> bool:
        says = Secrets(target, region_name).value(secret_id)
        found["opens"] = opens(target, secret_id, says, endpoint_of(target, region_name, instance_id))
        return True

    return Step(done=done, result=lambda: found)


@asks("secretsmanager:GetSecretValue")
@step(purpose="check")
def secrets_compared(recovery: Recovery, *, region: str, other: str) -> Step:
    """Name the keys in which a region's secret differs from the other region's, but for host and port.

    It stops nothing: secrets of their own may differ for good reasons, and the other region may be dark. Values are in
    no message and no report. Nothing to do without database.secret_id.
    """
    from drkit.targets.aws import Secrets

    target, secret_id = recovery.target, database_of(recovery.target).secret_id
    if not secret_id:
        return Step(done=lambda: True, result=lambda: {"secret": "none"})
    found: dict[str, str] = {}

    def done() -> bool:
        try:
            here, there = (Secrets(target, region_of(target, which)).value(secret_id) for which in (region, other))
        except TargetError as e:
            found["differ"] = f"not known: {e.message}"
            return True
        differ = sorted(k for k in {*here, *there} - set(ADDRESS) if here.get(k) != there.get(k))
        found["differ"] = f"in {', '.join(differ)}" if differ else "no"
        return True

    return Step(done=done, result=lambda: found)


def _observe_other_secret(recovery: Recovery, *, region: str, instance: str, instance_region: str) -> Facts:
    from drkit.targets.aws import Secrets

    target = recovery.target
    if not (secret_id := database_of(target).secret_id):
        return {"replicate": False}
    secrets, primary = Secrets(target, region_of(target, region)), region_of(target, instance_region)
    return {"replicate": primary in (secrets.primary_of(secret_id), secrets.was_replica_of(secret_id))}


def _plan_secret_again(target: Target, *, region: str, instance: str, instance_region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Secrets

    if not (secret_id := database_of(target).secret_id):
        return ()
    there, here = region_of(target, region), region_of(target, instance_region)
    secrets = Secrets(target, there)
    if secrets.primary_of(secret_id) == here:
        return ()
    if secrets.was_replica_of(secret_id) == here:
        return Secrets(target, here).plan_replicate(secret_id, there)
    return _plan_point_secret(target, instance=instance, region=region, instance_region=instance_region)


@asks(*_IAM_LOOK, *IAM_SECRET_POINT, *IAM_SECRET_REPLICATE)
@step(plan=_plan_secret_again, observe=_observe_other_secret, purpose="redundancy")
def secret_again(recovery: Recovery, *, region: str, instance: str, instance_region: str, facts: Facts) -> Step:
    """The secret of a region that serves no more follows the writer again.

    One that a failover took out of its replication is a replica of the other region's secret again, whatever it holds;
    one that was always a secret of its own names the writer. Without database.secret_id there is nothing to do.
    By hand: aws secretsmanager replicate-secret-to-regions --secret-id SECRET --region REGION
    --add-replica-regions Region=OTHER --force-overwrite-replica-secret
    """
    from drkit.targets.aws import Secrets

    target = recovery.target
    there, here = region_of(target, region), region_of(target, instance_region)
    secret_id, instance_id = database_of(target).secret_id, instance_of(target, instance)
    if not secret_id:
        return Step(done=lambda: True, result=lambda: {"secret": "none"})
    secrets, primary = Secrets(target, there), Secrets(target, here)

    def address() -> Facts:
        return _address(endpoint_of(target, here, instance_id))

    asked: list[bool] = []

    def replicate() -> None:
        primary.replicate(secret_id, there, permit=recovery.permit)
        asked.append(True)

    def replicated() -> bool:
        state, words = primary.replication(secret_id, there)
        if state == "Failed" and asked:
            raise Refused(f"{secret_id} is not replicated to {there}: {words}", "mend that, then resume")
        return state == "InSync" and secrets.primary_of(secret_id) == here

    if facts["replicate"]:
        return Step(done=replicated, act=replicate, result=lambda: {"secret": f"a replica of {here}'s"})

    def point() -> None:
        secrets.point(secret_id, address(), permit=recovery.permit, undo=recovery.undo)

    return Step(
        done=lambda: secrets.points_to(secret_id, address()),
        act=point,
        result=lambda: {"secret": "of its own"},
    )


# --- the service ------------------------------------------------------------------------------------------------------


def _plan_point_service(target: Target, *, region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Records

    name, zone, host = _service_record(target, region)
    return Records(target, zone, region_of(target, region)).plan_point(name, host)


@asks(*IAM_POINT)
@step(plan=_plan_point_service)
def point_service(recovery: Recovery, *, region: str) -> Step:
    """Point the service's DNS record at the load balancer of a region."""
    from drkit.targets.aws import Records

    target = recovery.target
    record, zone, host = _service_record(target, region)
    records = Records(target, zone, region_of(target, region))

    def act() -> None:
        records.point(record, host, permit=recovery.permit, undo=recovery.undo)

    return Step(done=lambda: records.value(record) == host, act=act, result=lambda: {"points_to": host})


@asks()
@step(purpose="recovery")
def service_answers(recovery: Recovery, *, for_s: float = 30.0) -> Step:
    """Every client is answered, reads and writes, for a while without a failure. for_s: on AWS.

    It is asked of the clients themselves: what a control plane calls available is not looked at.
    """
    return Step(done=lambda: recovery.stable(for_s * recovery.target.pace))


@asks()
@step(purpose="verification")
def ledger(recovery: Recovery) -> Step:
    """Read back what the clients have written, twice, and compare it with what was acknowledged to them.

    What is lost, damaged or written by nobody does not stop the playbook: that is for the verdict.
    """
    read: list[Facts] = []

    def act() -> None:
        read.append(recovery.read_ledger())

    def done() -> bool:
        if read and not read[-1]["verified"]:
            act()  # no two readings agreed, or the database was not there
        return bool(read) and read[-1]["verified"] is True

    def result() -> Facts:
        return {k: read[-1][k] for k in ("acknowledged", "lost", "corrupt")} if read else {}

    return Step(done=done, act=act, result=result)
