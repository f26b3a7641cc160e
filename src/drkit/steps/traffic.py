"""Where clients go: DNS records, the secret that names the database, and whether the service answers there."""

from __future__ import annotations

from drkit.errors import Refused, UsageError
from drkit.model import Effect
from drkit.playbook import Facts, Recovery, Step, step
from drkit.steps.fence import must_be_fenced
from drkit.steps.names import database_of, endpoint_of, instance_of, region_of, service_of
from drkit.targets import Target
from drkit.targets.aws.dns import IAM_POINT
from drkit.targets.aws.permissions import asks
from drkit.targets.aws.secrets import IAM_SECRET_POINT

_IAM_LOOK = ("rds:DescribeDBInstances",)


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


def _plan_point_secret(target: Target, *, instance: str, region: str) -> tuple[Effect, ...]:
    from drkit.targets.aws import Database, Secrets

    secret_id = database_of(target).secret_id
    if not secret_id:
        return ()
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    if not Database(target, region_name).exists(instance_id):
        return ()  # it is made on the way: its address is not known yet
    host, port = endpoint_of(target, region_name, instance_id)
    return Secrets(target, region_name).plan_point(secret_id, {"host": host, "port": port})


@asks(*_IAM_LOOK, *IAM_SECRET_POINT)
@step(plan=_plan_point_secret)
def point_secret(recovery: Recovery, *, instance: str, region: str) -> Step:
    """Let the region's secret name the instance as the service's database; done when a login with it works.

    A target without database.secret_id keeps its service on the DNS record: nothing is to be done then.
    By hand: aws secretsmanager put-secret-value --secret-id SECRET --region REGION
    """
    from drkit.targets.aws import Secrets

    target = recovery.target
    region_name, instance_id = region_of(target, region), instance_of(target, instance)
    secret_id = database_of(target).secret_id
    if not secret_id:
        return Step(done=lambda: True, result=lambda: {"secret": "none"})
    secrets = Secrets(target, region_name)

    def wanted() -> Facts:
        host, port = endpoint_of(target, region_name, instance_id)
        return {"host": host, "port": port}

    def done() -> bool:
        said, there = secrets.value(secret_id), wanted()
        return said.get("host") == there["host"] and str(said.get("port")) == str(there["port"])

    def act() -> None:
        secrets.point(secret_id, wanted(), permit=recovery.permit, undo=recovery.undo)

    return Step(done=done, act=act)


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
