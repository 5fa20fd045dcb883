"""The token: asked for where others can reach the page, and one that keeps them out."""

import pytest

from penstock.config.address import Address
from penstock.protocol.errors import ConfigError
from penstock.telemetry.dashboard.guard import TOKEN, choose_token

EVERYWHERE = Address("0.0.0.0", 6007)


def test_this_machine_alone_needs_no_token_but_may_have_one() -> None:
    assert choose_token(Address("127.0.0.1", 6007), {}) is None
    assert choose_token(Address("::1", 6007), {TOKEN: "x" * 16}) == "x" * 16


def test_beyond_this_machine_there_is_always_one_and_never_the_same() -> None:
    tokens = {choose_token(EVERYWHERE, {}) for _ in range(20)}
    assert len(tokens) == 20
    assert all(token and len(token) >= 32 for token in tokens)
    assert choose_token(EVERYWHERE, {TOKEN: "my-own-token_of-2026"}) == "my-own-token_of-2026"


@pytest.mark.parametrize("token", ["short", "x" * 15, "with a space in it", "with&reserved=signs", "ümlaut-ümlaut-üml"])
def test_a_token_that_keeps_nobody_out_or_fits_no_address_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{TOKEN} must have at least 16 characters"):
        choose_token(EVERYWHERE, {TOKEN: token})
