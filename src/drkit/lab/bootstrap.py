"""What a lab's account holds from the start, made through the APIs themselves: an application in three zones, its
database in two; in the second region a replica, a bucket for backups, and the application with no instance, which only
has to be scaled up ("pilot light"). All of it is tagged `drkit:consent=yes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from drkit.lab.template import SERVICE, SERVICE_PASSWORD

REGION, RECOVERY_REGION = "eu-central-1", "eu-west-1"
CONSENT = {"Key": "drkit:consent", "Value": "yes"}
NAME = "orders"
INSTANCE_ID, REPLICA_ID = "orders-db", "orders-db-replica"
RECORD = "db.orders.example"  # a name reserved for documentation: it can be nobody's
SERVICE_RECORD = "api.orders.example"
SECRET = "orders/db"  # noqa: S105
BUCKET = "orders-db-backups"
PASSWORD = "not-used-in-a-lab"  # noqa: S105
SNAPSHOT_BUCKET = "orders-db-snapshots"  # of the first region; the second one's are in BUCKET

ClientOf = Callable[[str, str], Any]  # service, region → boto3 client


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    vpc_id: str
    recovery_vpc_id: str
    places: dict[tuple[str, str], str]  # (region, subnet) → place of the plant

    def subnets(self, region: str, kind: str) -> list[str]:
        """Return the subnets of a kind ("app", "db") in the order of their zones."""
        found = {place: s for (r, s), place in self.places.items() if r == region and place.endswith(f"/{kind}")}
        return [found[place] for place in sorted(found)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The application in one region."""

    asg_name: str
    target_group_arn: str
    load_balancer_arn: str
    host: str  # DNS name of the load balancer


def client_factory(endpoint_url: str) -> ClientOf:
    """Return a maker of boto3 clients that reach this lab only, whatever the environment says."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(aws_access_key_id="lab", aws_secret_access_key="lab", region_name=REGION)  # noqa: S106
    config = Config(retries={"total_max_attempts": 1}, proxies={}, s3={"addressing_style": "path"})

    def client(service: str, region: str = REGION) -> Any:
        return session.client(service, region_name=region, endpoint_url=endpoint_url, config=config)  # type: ignore[call-overload]

    return client


def make_network(client: ClientOf, zones: tuple[str, ...]) -> Network:
    """Make both regions' VPCs: subnets for application and database in each zone; in the second region in one zone."""
    places: dict[tuple[str, str], str] = {}

    def region_vpc(region: str, net: int, wanted: list[tuple[str, str]]) -> str:
        ec2 = client("ec2", region)
        vpc_id = ec2.create_vpc(CidrBlock=f"10.{net}.0.0/16", TagSpecifications=_tags("vpc", NAME))["Vpc"]["VpcId"]
        for n, (place, zone) in enumerate(wanted):
            subnet = ec2.create_subnet(
                VpcId=vpc_id,
                CidrBlock=f"10.{net}.{n}.0/24",
                AvailabilityZone=zone,
                TagSpecifications=_tags("subnet", f"{NAME}-{place.replace('/', '-')}"),
            )
            places[region, subnet["Subnet"]["SubnetId"]] = place
        return str(vpc_id)

    kinds = [(f"{zone}/{kind}", f"{REGION}{zone}") for kind in ("app", "db") for zone in zones]
    vpc_id = region_vpc(REGION, 10, kinds)
    recovery_vpc_id = region_vpc(
        RECOVERY_REGION, 20, [("r/db", f"{RECOVERY_REGION}a"), ("r/app", f"{RECOVERY_REGION}a")]
    )
    return Network(vpc_id=vpc_id, recovery_vpc_id=recovery_vpc_id, places=places)


def make_service(
    client: ClientOf, network: Network, *, region: str, instances: int, at_most: int, grace_s: int
) -> Service:
    """Make a region's load balancer, its target group, and the Auto Scaling group with its launch template."""
    ec2, elb, asg = client("ec2", region), client("elbv2", region), client("autoscaling", region)
    subnets = network.subnets(region, "app")
    vpc_id = network.vpc_id if region == REGION else network.recovery_vpc_id
    target_group_arn = elb.create_target_group(
        Name=NAME, Protocol="HTTP", Port=8080, VpcId=vpc_id, HealthCheckPath="/health", Tags=[CONSENT]
    )["TargetGroups"][0]["TargetGroupArn"]
    balancer = elb.create_load_balancer(Name=NAME, Subnets=subnets, Tags=[CONSENT])["LoadBalancers"][0]
    elb.modify_load_balancer_attributes(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Attributes=[{"Key": "zonal_shift.config.enabled", "Value": "true"}],
    )
    elb.create_listener(
        LoadBalancerArn=balancer["LoadBalancerArn"],
        Protocol="HTTP",
        Port=80,
        DefaultActions=[{"Type": "forward", "TargetGroupArn": target_group_arn}],
    )
    ec2.create_launch_template(
        LaunchTemplateName=NAME, LaunchTemplateData={"ImageId": "ami-12c6146b", "InstanceType": "t3.micro"}
    )
    asg.create_auto_scaling_group(
        AutoScalingGroupName=NAME,
        LaunchTemplate={"LaunchTemplateName": NAME, "Version": "$Latest"},
        MinSize=0,
        MaxSize=at_most,
        DesiredCapacity=instances,
        VPCZoneIdentifier=",".join(subnets),
        TargetGroupARNs=[target_group_arn],
        HealthCheckType="ELB",
        HealthCheckGracePeriod=grace_s,
        Tags=[
            {"Key": key, "Value": value, "PropagateAtLaunch": True}
            for key, value in ((CONSENT["Key"], CONSENT["Value"]), ("Name", NAME))
        ],
    )
    return Service(
        asg_name=NAME,
        target_group_arn=str(target_group_arn),
        load_balancer_arn=str(balancer["LoadBalancerArn"]),
        host=str(balancer["DNSName"]),
    )


def make_database(
    client: ClientOf, network: Network, *, port: int, replica_port: int, version: str, zones: tuple[str, str | None]
) -> None:
    """Make the records of the instance (zones: primary's, standby's or None), of its replica, and the backup bucket."""
    rds, recovery = client("rds", REGION), client("rds", RECOVERY_REGION)
    zone, standby_zone = zones
    for region, api in ((REGION, rds), (RECOVERY_REGION, recovery)):
        api.create_db_subnet_group(
            DBSubnetGroupName=NAME,
            DBSubnetGroupDescription="where the database may live",
            SubnetIds=network.subnets(region, "db"),
            Tags=[CONSENT],
        )
    arn = rds.create_db_instance(
        DBInstanceIdentifier=INSTANCE_ID,
        Engine="postgres",
        EngineVersion=version,
        DBInstanceClass="db.t4g.medium",
        AllocatedStorage=20,
        DBName="postgres",
        MasterUsername="postgres",
        MasterUserPassword=PASSWORD,
        MultiAZ=standby_zone is not None,
        AvailabilityZone=zone,
        DBSubnetGroupName=NAME,
        Port=port,
        BackupRetentionPeriod=7,
        Tags=[CONSENT],
    )["DBInstance"]["DBInstanceArn"]
    recovery.create_db_instance_read_replica(
        DBInstanceIdentifier=REPLICA_ID,
        SourceDBInstanceIdentifier=arn,
        DBSubnetGroupName=NAME,
        AvailabilityZone=f"{RECOVERY_REGION}a",
        Port=replica_port,
        Tags=[CONSENT],
    )


def make_bucket(client: ClientOf) -> None:
    """Make the bucket for backups in the second region, and the one for snapshots in the first."""
    for bucket, region in ((BUCKET, RECOVERY_REGION), (SNAPSHOT_BUCKET, REGION)):
        s3 = client("s3", region)
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [CONSENT]})


def make_secret(client: ClientOf, *, host: str, port: int, dbname: str) -> None:
    """Make the secret that says where the service finds its database, with a replica in the second region.

    A change of it has no effect on processes in the lab: these are led by the writer's record.
    """
    content = {"engine": "postgres", "host": host, "port": port, "username": SERVICE, "password": SERVICE_PASSWORD}
    client("secretsmanager", REGION).create_secret(
        Name=SECRET,
        SecretString=json.dumps({**content, "dbname": dbname}),
        Tags=[CONSENT],
        AddReplicaRegions=[{"Region": RECOVERY_REGION}],
    )


def make_records(client: ClientOf, addresses: Mapping[str, str]) -> str:
    """Make the hosted zone and its records, name → where it points; return the zone's id."""
    dns = client("route53", REGION)
    zone_id = dns.create_hosted_zone(Name=RECORD.partition(".")[2], CallerReference="drkit lab")["HostedZone"]["Id"]
    zone_id = zone_id.removeprefix("/hostedzone/")
    dns.change_tags_for_resource(ResourceType="hostedzone", ResourceId=zone_id, AddTags=[CONSENT])
    records = [
        {"Name": name, "Type": "CNAME", "TTL": 5, "ResourceRecords": [{"Value": address}]}
        for name, address in addresses.items()
    ]
    dns.change_resource_record_sets(
        HostedZoneId=zone_id,
        ChangeBatch={"Changes": [{"Action": "UPSERT", "ResourceRecordSet": record} for record in records]},
    )
    return str(zone_id)


def _tags(kind: str, name: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [CONSENT, {"Key": "Name", "Value": name}]}]
