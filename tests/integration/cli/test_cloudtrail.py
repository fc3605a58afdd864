"""CloudTrail records as events; 2,900 real ones imported, published, projected and queried."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger import Ledger
from ledger.cli.commands.cloudtrail import event_of, shortened, type_of_arn
from tests.support.cli import Cli, cli_of
from tests.support.helpers import checked

DATA = Path(__file__).parents[4] / "shared" / "data" / "cloudtrail.jsonl.gz"
RECORD: dict[str, Any] = {
    "eventID": "875240ac-e821-4fc6-a311-8c352a1d20f5",
    "eventTime": "2023-07-10T11:42:18Z",
    "eventSource": "ec2.amazonaws.com",
    "eventName": "StopInstances",
    "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::1:user/ben", "userName": "ben"},
    "requestParameters": None,
    "responseElements": None,
}


@pytest.fixture
def cli(ledger: Ledger) -> Cli:
    return cli_of(ledger)


def record(**fields: Any) -> dict[str, Any]:
    return RECORD | fields


def resource(**fields: Any) -> tuple[str | None, str | None]:
    event = event_of(record(**fields))
    return event.resource_type, event.resource_id


def test_a_record_as_an_event() -> None:
    event = event_of(record(responseElements={"ok": True}))
    assert (event.actor, event.actor_type) == ("arn:aws:iam::1:user/ben", "IAMUser")
    assert (event.action, str(event.id)) == ("ec2.StopInstances", RECORD["eventID"])
    assert event.after == {"ok": True}
    assert event.metadata == {key: value for key, value in RECORD.items() if key != "responseElements"}
    failed = event_of(record(responseElements={"why": 1}, errorCode="AccessDenied"))
    assert failed.after is None
    assert failed.metadata["responseElements"] == {"why": 1}


@pytest.mark.parametrize(
    ("identity", "actor"),
    [
        ({"type": "IAMUser", "userName": "ben", "accountId": "1"}, ("ben", "IAMUser")),
        ({"type": "AWSService", "invokedBy": "ec2.amazonaws.com"}, ("ec2.amazonaws.com", "AWSService")),
        ({"invokedBy": "ec2.amazonaws.com", "accountId": "1"}, ("ec2.amazonaws.com", "AWSService")),
        ({"type": "Root", "principalId": "1"}, ("1", "Root")),
        ({"type": "AWSAccount", "accountId": "1"}, ("1", "AWSAccount")),
        ({"type": "", "arn": "", "userName": None}, ("ec2", "Unknown")),
        (None, ("ec2", "Unknown")),
    ],
    ids=str,
)
def test_the_actor_is_never_empty(identity: Any, actor: tuple[str, str]) -> None:
    event = event_of(record(userIdentity=identity))
    assert (event.actor, event.actor_type) == actor


def test_the_resource() -> None:
    key = {"type": "AWS::KMS::Key", "ARN": "arn:aws:kms:us-east-1:1:key/k"}
    assert resource(resources=[key, {"ARN": "other"}]) == ("kms.key", key["ARN"])
    group = {"type": "AWS::EC2::SecurityGroup", "ARN": "arn:aws:ec2:us-east-1:1:security-group/sg-1"}
    assert resource(resources=[group]) == ("ec2.security-group", group["ARN"])
    assert resource(resources=[{"ARN": group["ARN"]}]) == ("ec2.security-group", group["ARN"])
    assert resource(requestParameters={"instanceId": "i-1"}) == ("ec2.instance", "i-1")
    items = {"items": [{"instanceId": "i-1"}]}
    assert resource(requestParameters={"instancesSet": items}) == ("ec2.instance", "i-1")
    items["items"].append({"instanceId": "i-2"})
    assert resource(requestParameters={"instancesSet": items}) == (None, None)
    bucket = {"eventSource": "s3.amazonaws.com", "requestParameters": {"bucketName": "b"}}
    assert resource(**bucket) == ("s3.bucket", "arn:aws:s3:::b")
    assert resource(**bucket, awsRegion="cn-north-1") == ("s3.bucket", "arn:aws-cn:s3:::b")
    iam = {"eventSource": "iam.amazonaws.com"}
    assert resource(**iam, requestParameters={"roleName": "r", "policyArn": "p"}) == ("iam.role", "r")
    assert resource(**iam, requestParameters={"roleName": "r", "userName": "u"}) == (None, None)
    assert resource(requestParameters="text", resources="text") == (None, None)


def test_types_of_arns() -> None:
    assert type_of_arn("arn:aws:s3:::bucket") == "s3.bucket"
    assert type_of_arn("arn:aws:s3:::bucket/key:1") == "s3.object"
    assert type_of_arn("arn:aws:lambda:us-east-1:1:function:f:1") == "lambda.function"
    assert type_of_arn("arn:aws:sns:us-east-1:1:topic") == "sns"
    assert type_of_arn("arn:aws:ssm:us-east-1:1:parameter/a/b:2") == "ssm.parameter"
    assert type_of_arn("nonsense") == "aws.resource"


def test_what_is_too_long_is_shortened_and_stays_whole_in_metadata() -> None:
    one, other = "x" * 300, "x" * 299 + "y"
    assert len({shortened(one, 255), shortened(other, 255)}) == 2
    assert {len(shortened(one, 255)), len(shortened(one, 64))} == {255, 64}
    event = event_of(record(userIdentity={"arn": one}, eventName=one, resources=[{"ARN": f"arn:aws:s3:::{one}"}]))
    assert (len(event.actor or ""), len(event.action), len(event.resource_id or "")) == (255, 128, 255)
    assert event.metadata["userIdentity"]["arn"] == event.metadata["eventName"] == one


def test_bad_records(cli: Cli, ledger: Ledger, tmp_path: Path) -> None:
    bad = [
        ([], "not a JSON object"), (7, "not a JSON object"), ({}, "eventSource is missing"),
        (record(eventID=None), "eventID is missing"), (record(eventID="7"), "eventID is not a UUID"),
        (record(eventTime="2023-07-10T11:42:18"), "no time zone"), (record(eventTime=7), "eventTime is missing"),
        ({"Records": [RECORD, {}]}, "record 2: not a CloudTrail record"),
        (record(eventID="375240ac-e821-4fc6-a311-8c352a1d20f5", awsRegion="\0"), "U+0000"),
        (record(eventName="Other"), "with another action"),
    ]  # fmt: skip
    for each, says in bad:
        file = tmp_path / "trail.json"
        file.write_text(f"{json.dumps(RECORD)}\n\n{json.dumps(each)}\n")
        ran = cli("import", "--format", "cloudtrail", str(file))
        assert ran.code == 2 and not ran.out
        assert ran.error.startswith("line 3") and says in ran.error, ran
        assert "up to position 1." in ran.error
    assert ledger.tail().position == 1


def test_files_as_aws_delivers_them(cli: Cli, ledger: Ledger, tmp_path: Path) -> None:
    records = [record(eventID=f"{number}75240ac-e821-4fc6-a311-8c352a1d20f5") for number in range(3)]
    file = tmp_path / "trail.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"Records": records}).encode()))
    ran = cli.well("import", "--format", "cloudtrail", str(file), "--json")
    assert ran.json == {"read": 3, "recorded": 3, "duplicates": 0, "last_position": 3}
    assert [str(entry.id) for entry in checked(ledger)] == [each["eventID"] for each in records]


@pytest.mark.skipif(not DATA.exists(), reason=f"needs the CloudTrail records of {DATA}")
def test_2900_real_records(cli: Cli) -> None:
    records = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]
    count = len(records)
    importing = ("import", "--format", "cloudtrail", str(DATA), "--json")
    whole = {"read": count, "recorded": count, "duplicates": 0, "last_position": count}
    assert cli.well(*importing).json == whole
    assert cli.well(*importing).json == whole | {"recorded": 0, "duplicates": count}
    assert cli.well("run", "--once", "--json").json == {"sealed": 0, "published": count, "projected": count}
    assert cli.well("verify", "--json").json["entries"] == count
    assert [whole_record(entry) for entry in cli.well("tail", "--from", "1", "--json").jsons] == records
    check_query(cli, records)
    check_activity(cli, records)
    check_resources(cli, records)


def check_query(cli: Cli, records: list[Any]) -> None:
    def found(*arguments: str) -> list[str]:
        """The ids, oldest first."""
        return [entry["id"] for entry in reversed(cli.well("query", "--limit", "5000", "--json", *arguments).jsons)]

    def ids(wanted: Callable[[Any], bool]) -> list[str]:
        return [each["eventID"] for each in records if wanted(each)]

    [(arn, _)] = Counter(each["userIdentity"].get("arn") for each in records).most_common(1)
    assert found("--actor", arn) == ids(lambda each: each["userIdentity"].get("arn") == arn)
    assert found("--action", "iam.*") == ids(lambda each: each["eventSource"] == "iam.amazonaws.com")
    when = ("--since", "2023-07-10T12:00:00", "--until", "2023-07-10T12:10:00Z")
    assert found(*when) == ids(lambda each: "2023-07-10T12:00:00Z" <= each["eventTime"] < "2023-07-10T12:10:00Z")
    throttled = ids(lambda each: each.get("errorCode") == "ThrottlingException")
    assert throttled and set(throttled) <= set(found("--text", "ThrottlingException"))


def check_activity(cli: Cli, records: list[Any]) -> None:
    totals: Counter[tuple[str, str]] = Counter()
    for row in cli.well("activity", "--limit", "100000", "--json").jsons:
        totals[row["day"], row["action"]] += row["entries"]
    assert totals == Counter(
        (each["eventTime"][:10], f"{each['eventSource'].partition('.')[0]}.{each['eventName']}") for each in records
    )


def check_resources(cli: Cli, records: list[Any]) -> None:
    kms = [each for each in records if each["eventSource"] == "kms.amazonaws.com" and each.get("resources")]
    [(key, times)] = Counter(each["resources"][0]["ARN"] for each in kms).most_common(1)
    assert len(cli.well("history", f"kms.key:{key}", "--limit", "5000", "--json").jsons) == times
    assert cli.well("state", f"kms.key:{key}", "--json").json["entries"] == times
    buckets = Counter(each["requestParameters"]["bucketName"] for each in records if named_bucket(each))
    [(bucket, times)] = buckets.most_common(1)
    assert cli.well("state", f"s3.bucket:arn:aws:s3:::{bucket}", "--json").json["entries"] == times


def named_bucket(record: Any) -> bool:
    return record["eventSource"] == "s3.amazonaws.com" and bool((record["requestParameters"] or {}).get("bucketName"))


def whole_record(entry: dict[str, Any]) -> dict[str, Any]:
    """The record, put together again from its entry."""
    after = {} if entry["after"] is None else {"responseElements": entry["after"]}
    return dict(entry["metadata"]) | after
