"""Files to import: exit code 0, or 2 with the line, and everything before that line is recorded."""

from __future__ import annotations

import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger import Event, Ledger, testing
from ledger.cli.commands.cloudtrail import event_of, type_of_arn
from ledger.cli.commands.import_file import Import
from ledger.errors import InvalidEvent, UsageError
from ledger.format.canonical import draft
from tests.fuzz.json_texts import DEEP, strained
from tests.fuzz.mutations import mutated, texts
from tests.fuzz.profile import bounded, fuzz
from tests.support.cli import AUDITLEDGER, Cli, cli_of
from tests.support.helpers import checked

EVENTS = [
    b'{"actor":"user:42","action":"invoice.updated","resource_type":"invoice","resource_id":"inv_7","before":'
    b'{"status":"draft","total":1.5},"after":{"status":"sent","lines":[1,2,null]},"metadata":{"ip":"192.0.2.7"}}',
    b'{"actor":"user:43","action":"user.login","actor_type":"service","id":"01930000-0000-7000-8000-000000000001",'
    b'"occurred_at":"2026-05-01T12:00:00.1234569+02:00"}',
    b'{"actor":"user:44","action":"user.login","idempotency_key":"a key"}',
]
RECORD: dict[str, Any] = {
    "eventVersion": "1.08",
    "eventID": "875240ac-e821-4fc6-a311-8c352a1d20f5",
    "eventTime": "2023-07-10T11:42:18Z",
    "eventSource": "ec2.amazonaws.com",
    "eventName": "StopInstances",
    "awsRegion": "us-east-1",
    "userIdentity": {"type": "IAMUser", "arn": "arn:aws:iam::1:user/ben", "userName": "ben"},
    "requestParameters": {"instancesSet": {"items": [{"instanceId": "i-1"}]}, "bucketName": "b"},
    "resources": [{"ARN": "arn:aws:s3:::b/c", "type": "AWS::S3::Object", "accountId": "1"}],
    "responseElements": {"ok": True},
    "errorCode": "AccessDenied",
}
WITHOUT = [
    json.dumps({name: item for name, item in RECORD.items() if name != left_out}).encode() for left_out in RECORD
]
RECORDS = [*WITHOUT, b'{"Records":[%b,%b]}' % (WITHOUT[0], WITHOUT[-1])]
FILES = {
    "events": [*EVENTS, b"\n".join(EVENTS) + b"\n", b"\xef\xbb\xbf" + b"\r\n\r\n".join(EVENTS)],
    "cloudtrail": [*RECORDS, b"\n".join(RECORDS)],
}
FORMATS = st.sampled_from(sorted(FILES))


@pytest.fixture(scope="module")
def ledger(servers: testing.TestServers, template: str) -> Iterator[Ledger]:
    with (
        testing.database(servers.database_url, template=template) as url,
        Ledger.open(database_url=url) as opened,
    ):
        yield opened


def events_in(file: Path, form: str) -> list[Event]:
    with Import(str(file), form) as source:
        return list(source.events(lambda done, total: None))


# ------------------------------------------------------------------------------------------- the files, without servers


def test_every_file_is_events_or_a_bad_line(tmp_path: Path) -> None:
    file = tmp_path / "file"

    @fuzz(60)
    @given(
        FORMATS.flatmap(lambda form: st.tuples(st.just(form), mutated(FILES[form]) | strained(FILES[form]))),
        st.sampled_from(["plain", "plain", "gzip", "gzip of changed", "gzip of gzip"]),
        st.data(),
    )
    def check(formed: tuple[str, bytes], packed: str, drawn: st.DataObject) -> None:
        form, data = formed
        if packed.startswith("gzip"):
            data = gzip.compress(data, mtime=0)
        if packed == "gzip of changed":
            data = drawn.draw(mutated([data]))
        if packed == "gzip of gzip":
            data = gzip.compress(data, mtime=0)
        file.write_bytes(data)
        with bounded():
            try:
                found = events_in(file, form)
            except UsageError as error:
                assert "line " in str(error), error
                return
        for event in found:
            try:
                draft(event, "main", now=0, entry_id=bytes(16), salt=bytes(16))
            except InvalidEvent:
                continue

    check()


@pytest.mark.parametrize("deep", DEEP)
@pytest.mark.parametrize("form", FILES)
def test_what_nests_too_deeply(tmp_path: Path, form: str, deep: str) -> None:
    for text in (
        deep,
        f'{{"actor":{deep}}}',
        f'{{"actor":"a","action":"b","after":{deep}}}',
        f'{{"Records":[{deep}]}}',
    ):
        (tmp_path / "file").write_text(text)
        with pytest.raises(UsageError, match="line 1"):
            events_in(tmp_path / "file", form)


@fuzz(30)
@given(strained([json.dumps(RECORD).encode(), *WITHOUT]))
@example(json.dumps(RECORD | {"resources": None, "requestParameters": {"instancesSet": {"items": 5}}}).encode())
@example(json.dumps(RECORD | {"resources": None, "requestParameters": {"instancesSet": {"items": "abc"}}}).encode())
@example(json.dumps(RECORD | {"resources": [{"ARN": "arn:aws:s3:::b", "type": "AWS::"}]}).encode())
@example(json.dumps(RECORD | {"resources": [{"ARN": "", "arn": "", "type": "AWS::S3::Object"}]}).encode())
@example(json.dumps(RECORD | {"resources": [{"ARN": "arn:aws:a:b:c:x/", "type": 5}]}).encode())
@example(json.dumps(RECORD | {"resources": [{"ARN": "arn:aws:ec2:::/", "type": None}]}).encode())
def test_whatever_a_record_says_its_event_is_whole(text: bytes) -> None:
    """What does not fit is shortened or left to the metadata: no record is lost for what it says of its resource."""
    try:
        record = json.loads(text)
        event = event_of(record)
    except (ValueError, RecursionError):
        return
    assert event.resource_type is None or 1 <= len(event.resource_type) <= 64
    assert event.resource_id is None or 1 <= len(event.resource_id) <= 255
    assert (event.resource_type is None) == (event.resource_id is None)
    assert 1 <= len(event.actor or "") <= 255 and 1 <= len(event.action) <= 128 and 1 <= len(event.actor_type) <= 64


@fuzz(20)
@given(texts(["arn:aws:ec2:us-east-1:123:instance/i-1", "arn:aws:s3:::b/c", "arn:aws:iam::1:user/a:b"]))
def test_arns(arn: str) -> None:
    assert type_of_arn(arn)


# ------------------------------------------------------------------------------------------------------- into a ledger


def test_an_import_records_what_it_says(ledger: Ledger, tmp_path: Path) -> None:
    cli = cli_of(ledger, redis=False)
    file = tmp_path / "file"

    @fuzz(20)
    @given(
        FORMATS.flatmap(lambda form: st.tuples(st.just(form), mutated(FILES[form]) | strained(FILES[form]))),
        st.booleans(),
    )
    def check(formed: tuple[str, bytes], from_stdin: bool) -> None:
        form, data = formed
        file.write_bytes(data)
        before = ledger.tail().position
        ran = cli("--json", "import", "-" if from_stdin else str(file), "--format", form, stdin=data)
        recorded = ledger.tail().position - before
        if ran.code == 0:
            assert ran.json["recorded"] == recorded
        else:
            assert ran.code == 2 and "line " in ran.error, ran

    check()
    assert checked(ledger)
    assert cli("verify").code == 0


# ------------------------------------------------------------------------------------------------------------- memory


def limited(cli: Cli, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that gets no more memory than 900 MB."""
    return subprocess.run(
        [AUDITLEDGER, *cli.urls, *arguments],
        capture_output=True, text=True, check=False, timeout=200,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (900 * 10**6,) * 2),
    )  # fmt: skip


BOMBS = {
    "a line without an end": ("events", b"", b"x", 10**9),
    "an event": ("events", b'{"actor":"a","action":"b","after":[', b"{},", 60 * 10**6),
    "records": ("cloudtrail", b'{"Records":[', b"{},", 60 * 10**6),
}


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused_in_little_memory(ledger: Ledger, tmp_path: Path, case: str) -> None:
    """A small file that becomes a line of hundreds of megabytes, or values that take thirty times its length."""
    form, head, part, size = BOMBS[case]
    file = tmp_path / "bomb.gz"
    part *= 10**6
    file.write_bytes(gzip.compress(head) + gzip.compress(part) * (size // len(part)) + gzip.compress(b"{}]}"))
    ran = limited(cli_of(ledger, redis=False), "import", str(file), "--format", form)
    assert ran.returncode == 2 and ran.stderr.startswith("error: ") and "line 1" in ran.stderr, ran
