"""Bodies at their limits, and the path in their errors, through a real ledger."""

from __future__ import annotations

import pytest
from msgspec import structs

from ledger import Event, Ledger
from ledger.errors import InvalidEvent
from ledger.format import canonical, rules
from tests.support.helpers import checked, event


@pytest.mark.parametrize("field", ["before", "after", "metadata"])
def test_the_path_begins_with_the_field(ledger: Ledger, field: str) -> None:
    with pytest.raises(InvalidEvent, match=rf"^{field}\.a\[1\]: nan is not JSON"):
        ledger.append(structs.replace(event(), **{field: {"a": [0, float("nan")]}}))
    assert checked(ledger) == []


def test_a_body_holds_256_kib_and_not_a_byte_more(ledger: Ledger) -> None:
    frame = len(canonical.body_bytes(b'""', b'""', b'""', bytes(16)))
    room = rules.MAX_BODY - frame
    most = Event(actor="a", action="b", before="é" * 10, after="\n", metadata="x" * (room - 22))
    receipt = ledger.append(most)
    with pytest.raises(InvalidEvent, match=r"^body: .* take 262145 bytes; at most 262144 are allowed$"):
        ledger.append(structs.replace(most, metadata="x" * (room - 21)))
    [entry] = checked(ledger)
    assert entry.position == receipt.position
    assert len(canonical.body(entry) or b"") == rules.MAX_BODY == 256 * 1024
    assert (entry.before, entry.after) == (most.before, most.after)
