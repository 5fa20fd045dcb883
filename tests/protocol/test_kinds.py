"""Two kinds of images in one run: each ticket goes to producers of its kind, and neither kind holds the other back."""

from dataclasses import replace
from typing import Any

import pytest

from penstock.protocol.actions import Action
from penstock.protocol.admission import Expectation
from penstock.protocol.fleet import FleetState
from penstock.protocol.messages import Reject, Welcome
from penstock.protocol.tickets import Kind
from tests.protocol.desk import ANN, BOB, CAT, Desk, delivered, failures, given, notes, quarantined, sent
from tests.protocol.samples import MANIFEST, a_ticket

PHOTOS = replace(MANIFEST, model="photos", model_digest="d2", backend="images")
REAL = Expectation(model_digest="d2")


def _desk(**changes: Any) -> Desk:
    return Desk(**{"real": REAL} | changes)


def _join(desk: Desk, who: bytes, *, groups: int = 8) -> list[Action]:
    """A producer of real images comes."""
    return desk.hello(who, PHOTOS) + desk.ready(who, groups=groups)


def _plan(desk: Desk, kinds: str, start: int = 0) -> list[Action]:
    """Plan one ticket a letter, `g`enerated or `r`eal, and hand out what can be."""
    for index, kind in enumerate(kinds, start):
        desk.machine.plan(a_ticket(index, model_digest="d2" if kind == "r" else "d1"))
    return desk.machine.issue(desk.now, eager=True)


# --- who is welcome ---------------------------------------------------------------------------------------------------


def test_producers_of_both_kinds_are_welcome_and_each_kind_has_a_first_engine() -> None:
    desk = _desk(expects=Expectation())
    assert desk.machine.lacking == [Kind.GENERATED, Kind.REAL]
    assert len(sent(desk.hello(ANN, PHOTOS), Welcome)) == 1
    assert desk.machine.lacking == [Kind.GENERATED]
    assert len(sent(desk.hello(BOB), Welcome)) == 1
    assert desk.machine.lacking == []
    assert desk.machine.engines == {Kind.REAL: PHOTOS, Kind.GENERATED: MANIFEST}


def test_another_set_of_images_is_refused_with_both_digests() -> None:
    [reject] = sent(_desk().hello(ANN, replace(PHOTOS, model_digest="d3")), Reject)
    assert reject.reason == "ann serves photos with digest d3, this run wants digest d2 for its real images"


@pytest.mark.parametrize(
    ("desk", "manifest", "kind"),
    [(Desk(), PHOTOS, "real"), (_desk(), None, "")],
)
def test_a_kind_that_the_run_does_not_use_is_refused(desk: Desk, manifest: Any, kind: str) -> None:
    if manifest is None:
        desk.machine.expect(None, REAL)
        manifest, kind = MANIFEST, "generated"
    [reject] = sent(desk.hello(ANN, manifest), Reject)
    assert reject.reason.endswith(f": {kind} images, and this run uses none")


def test_engines_must_be_the_same_within_their_kind_only() -> None:
    desk = Desk(
        expects=Expectation(model_digest="d1", same_engine=True), real=Expectation(model_digest="d2", same_engine=True)
    )
    desk.hello(ANN)
    assert sent(desk.hello(BOB, PHOTOS), Reject) == []
    [reject] = sent(desk.hello(CAT, replace(PHOTOS, versions={"pillow": "1"})), Reject)
    assert "cannot make the same bits" in reject.reason


# --- who gets what ----------------------------------------------------------------------------------------------------


def test_a_ticket_goes_only_to_producers_of_its_model() -> None:
    desk = _desk()
    desk.join(ANN)
    _join(desk, BOB)
    actions = _plan(desk, "grrgr")
    assert given(actions, ANN) == [(0, 0), (3, 0)]
    assert given(actions, BOB) == [(1, 0), (2, 0), (4, 0)]


def test_one_kind_without_room_or_producers_does_not_hold_the_other_back() -> None:
    desk = _desk()
    desk.join(ANN, groups=2)
    assert given(_plan(desk, "rrrgggrg")) == [(3, 0), (4, 0)]
    assert given(_join(desk, BOB, groups=3)) == [(0, 0), (1, 0), (2, 0)]
    assert given(desk.make(ANN, 3) + desk.make(ANN, 4), ANN) == [(5, 0), (7, 0)]


def test_one_kind_that_is_full_in_the_middle_of_the_plan_lets_the_other_pass() -> None:
    desk = _desk()
    desk.join(ANN, groups=2)
    _join(desk, BOB, groups=2)
    assert given(_plan(desk, "rrrggg")) == [(0, 0), (1, 0), (3, 0), (4, 0)]


def test_a_ticket_that_its_only_producer_failed_does_not_go_to_the_other_kind() -> None:
    desk = _desk()
    desk.join(ANN)
    _join(desk, BOB)
    _plan(desk, "r")
    assert given(desk.refuse(BOB, 0)) == [(0, 1)], "a fleet of one tries again"
    assert desk.held(ANN) == ()


def test_in_ticket_order_groups_of_both_kinds_come_in_the_order_of_the_plan() -> None:
    desk = _desk(order="ticket")
    desk.join(ANN)
    _join(desk, BOB)
    _plan(desk, "rgr")
    assert delivered(desk.make(ANN, 1)) == []
    assert delivered(desk.make(BOB, 2)) == []
    assert delivered(desk.make(BOB, 0)) == [0, 1, 2]


# --- what is usual, and what goes wrong -------------------------------------------------------------------------------


def _usual(desk: Desk) -> None:
    """Ann has made eight groups in ten seconds each, Bob has looked up eight in next to no time."""
    desk.join(ANN)
    _join(desk, BOB)
    _plan(desk, "g" * 8 + "r" * 8)
    desk.work(BOB, *range(8, 16), seconds=0.0)
    desk.work(ANN, *range(8), seconds=10.0)


def test_what_is_usual_for_one_kind_makes_no_ticket_of_the_other_late() -> None:
    desk = _desk()
    _usual(desk)
    desk.join(CAT)
    _plan(desk, "g", 20)
    [holder] = [who for who in (ANN, CAT) if desk.held(who)]
    desk.start(holder, 20)
    assert given(desk.wait(19.0, ANN, BOB, CAT)) == []
    assert [index for index, _ in given(desk.wait(3.0, ANN, BOB, CAT))] == [20], "twice ten seconds"


def test_a_late_real_ticket_is_hedged_with_its_own_kind_and_not_after_a_picture_of_another() -> None:
    desk = _desk()
    _usual(desk)
    _join(desk, CAT)
    _plan(desk, "gr", 20)
    desk.start(ANN, 20)
    [holder] = [who for who in (BOB, CAT) if desk.held(who)]
    [other] = {BOB, CAT} - {holder}
    desk.start(holder, 21)
    assert given(desk.wait(3.0, ANN, BOB, CAT)) == [(21, 1)]
    assert len(desk.held(other)) == 1
    assert len(desk.held(ANN)) == 1


def test_failures_in_a_row_are_those_of_one_model() -> None:
    desk = _desk()
    desk.join(ANN)
    _join(desk, BOB)
    _plan(desk, "rgrgrg")
    actions: list[Action] = []
    for real in (0, 2, 4):
        for _ in range(3):
            actions += desk.refuse(BOB, real)
        actions += desk.make(ANN, real + 1)
    assert len(quarantined(actions)) == 2
    assert len(failures(actions)) == 1, "the groups of the other kind say nothing of these"


def test_the_loss_of_one_kind_is_said_although_the_other_serves() -> None:
    desk = _desk()
    desk.join(ANN)
    desk.machine.tick(0.0)
    assert desk.machine.fleet is FleetState.WAITING
    desk.hello(BOB, PHOTOS)
    desk.machine.tick(0.0)
    assert desk.machine.fleet is FleetState.WARMING
    desk.ready(BOB)
    desk.machine.tick(0.0)
    assert desk.machine.fleet is FleetState.SERVING
    desk.machine.on_unreachable(BOB)
    [note] = notes(desk.machine.tick(0.0), warning=True)
    assert note.startswith("real images: all producers are gone; rank 0 waits for one at ")
    _plan(desk, "r")
    assert desk.machine.describe_wait(0.0).endswith("held by nobody: all producers are gone")
    _join(desk, BOB)
    assert notes(desk.wait(2.0, ANN, BOB)) == ["real images: producers are serving again, after 1.0 s without any"]
