"""Converts AWS CloudTrail records to events. Pure.

Nothing of a record is lost: `after` has the responseElements of a successful call, `metadata` everything else. A value
that is too long for a field of an event is shortened, with a hash in place of the rest; `metadata` has all of it.

Resource types have no colon, so that TYPE:ID can be typed: AWS::EC2::SecurityGroup is `ec2.security-group`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from ledger.cli.params import moment_of
from ledger.events import Event
from ledger.format.canonical import digest

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_SERVICE = ".amazonaws.com"

# Request parameters that name a call's resource, by service. The first row with a parameter in the call decides, if the
# call has exactly one of the row: two would be ambiguous.
_NAMED: Mapping[str, tuple[Mapping[str, str], ...]] = {
    "s3": ({"bucketName": "s3.bucket"},),
    "ec2": (
        {"instanceId": "ec2.instance", "instancesSet": "ec2.instance"},
        {"volumeId": "ec2.volume", "snapshotId": "ec2.snapshot", "imageId": "ec2.image"},
        {"groupId": "ec2.security-group"},
    ),
    "ssm": ({"instanceId": "ec2.instance", "instanceIds": "ec2.instance"},),
    "iam": (
        {"userName": "iam.user", "roleName": "iam.role", "groupName": "iam.group"},
        {"instanceProfileName": "iam.instance-profile"},
        {"policyArn": "iam.policy"},
    ),
    "sts": ({"roleArn": "iam.role"},),
    "kms": ({"keyId": "kms.key"},),
    "secretsmanager": ({"secretId": "secretsmanager.secret"},),
    "lambda": ({"functionName": "lambda.function"},),
    "rds": ({"dBInstanceIdentifier": "rds.db-instance", "dBSnapshotIdentifier": "rds.db-snapshot"},),
    "cloudtrail": ({"trailName": "cloudtrail.trail", "name": "cloudtrail.trail"},),
    "logs": ({"logGroupName": "logs.log-group"},),
    "dynamodb": ({"tableName": "dynamodb.table"},),
}  # fmt: skip


def event_of(record: Any) -> Event:
    """The event of one record. Raises ValueError, naming the missing or malformed field."""
    if not isinstance(record, dict):
        raise ValueError("not a CloudTrail record: not a JSON object")
    service = _text(record, "eventSource").removesuffix(_SERVICE)
    answer = record.get("responseElements")
    has_after = answer is not None and not record.get("errorCode")
    identity = record.get("userIdentity")
    actor, actor_type = _actor(identity if isinstance(identity, dict) else {}, service)
    resource_type, resource_id = _resource(record, service) or (None, None)
    return Event(
        actor=shortened(actor, 255),
        actor_type=shortened(actor_type, 64),
        action=shortened(f"{service}.{_text(record, 'eventName')}", 128),
        resource_type=resource_type and shortened(resource_type, 64),
        resource_id=resource_id and shortened(resource_id, 255),
        after=answer if has_after else None,
        metadata={key: value for key, value in record.items() if not (has_after and key == "responseElements")},
        id=_id(_text(record, "eventID")),
        occurred_at=moment_of(_text(record, "eventTime")),
    )


def shortened(text: str, limit: int) -> str:
    """The text in at most `limit` characters. Different texts stay different, by a hash."""
    if len(text) <= limit:
        return text
    mark = f"~{digest(text.encode(errors='surrogatepass')).hex()[:16]}"
    return text[: limit - len(mark)] + mark


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"not a CloudTrail record: {field} is missing or not a string")
    return value


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ValueError(f"eventID is not a UUID: {text[:64]!r}") from None


def _actor(identity: dict[str, Any], service: str) -> tuple[str, str]:
    texts = {key: value for key, value in identity.items() if isinstance(value, str) and value}
    keys = ("arn", "userName", "invokedBy", "principalId", "accountId", "identityProvider", "accessKeyId")
    actor = next((texts[key] for key in keys if key in texts), service)
    return actor, texts.get("type") or ("AWSService" if "invokedBy" in texts else "Unknown")


def _resource(record: dict[str, Any], service: str) -> tuple[str, str] | None:
    """Type and id of the record's resource; None if it is ambiguous or missing."""
    resources = record.get("resources")
    first = resources[0] if isinstance(resources, list) and resources else None
    if isinstance(first, dict):
        arn = first.get("ARN") or first.get("arn")
        if isinstance(arn, str) and arn:
            aws_type = first.get("type")
            return (_type_of(aws_type) if isinstance(aws_type, str) else "") or type_of_arn(arn), arn
    parameters = record.get("requestParameters")
    if not isinstance(parameters, dict):
        return None
    for row in _NAMED.get(service, ()):
        given = [key for key in row if parameters.get(key)]
        if given:
            return _named(row[given[0]], parameters[given[0]], record) if len(given) == 1 else None
    return None


def _named(resource_type: str, value: Any, record: dict[str, Any]) -> tuple[str, str] | None:
    if isinstance(value, dict):  # {"items": [{"instanceId": …}]}
        items = value.get("items")
        items = items if isinstance(items, list) else []
        value = [item.get("instanceId") for item in items if isinstance(item, dict)]
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if not isinstance(value, str) or not value:
        return None
    if resource_type == "s3.bucket" and not value.startswith("arn:"):
        region = str(record.get("awsRegion"))
        partition = "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
        value = f"arn:{partition}:s3:::{value}"  # the form used in `resources`
    return resource_type, value


def _type_of(aws_type: str) -> str:
    """`AWS::EC2::SecurityGroup` as `ec2.security-group`."""
    service, *kinds = aws_type.removeprefix("AWS::").split("::")
    return ".".join([service.lower(), *(_HUMP.sub("-", kind).lower() for kind in kinds)]).replace(":", ".")


def type_of_arn(arn: str) -> str:
    """`arn:aws:ec2:us-east-1:123:instance/i-1` as `ec2.instance`."""
    parts = arn.split(":", 5)
    if len(parts) < 6 or not parts[2]:
        return "aws.resource"
    service, rest = parts[2], parts[5]
    if service == "s3":
        return "s3.object" if "/" in rest else "s3.bucket"
    kind, separator, _ = rest.partition("/" if "/" in rest.partition(":")[0] else ":")
    return f"{service}.{kind}" if separator and kind else service
