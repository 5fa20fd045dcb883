"""Output that waits: all of it comes out in its order, and of too much the newest."""

import io

from penstock.telemetry.terminal.waiting_output import WaitingOutput


def test_it_waits_then_comes_out_in_order_then_passes() -> None:
    screen, other = io.StringIO(), io.StringIO()
    output = WaitingOutput(screen)
    output.write(screen, "before ")
    output.hold()
    assert output.write(screen, "one ") == 4
    output.write(other, "elsewhere")
    output.write(screen, "two ")
    assert (screen.getvalue(), other.getvalue()) == ("before ", "")
    output.release()
    output.write(screen, "after")
    assert (screen.getvalue(), other.getvalue()) == ("before one two after", "elsewhere")


def test_of_too_much_the_newest_comes_out_and_what_is_lost_is_counted() -> None:
    screen = io.StringIO()
    output = WaitingOutput(screen)
    output.hold()
    for number in range(2007):
        output.write(screen, f"{number}\n")
    output.release()
    lost, first, *_, last = screen.getvalue().splitlines()
    assert (lost, first, last) == ("... 7 earlier pieces of output are lost", "7", "2006")
