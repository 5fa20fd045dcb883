"""Who may read what is served beyond this machine: the token, where it comes from, and what is none."""

from pathlib import Path

import pytest

from penstock.config.access import METRICS_TOKEN, brings, metrics_token
from penstock.config.address import Address
from penstock.protocol.errors import ConfigError

HERE, EVERYWHERE = Address("127.0.0.1", 9400), Address("0.0.0.0", 9400)
TOKEN = "prometheus-knows_it-2026"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with a token that nobody else can read."""
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(0o600)
    return path


def test_this_machine_alone_needs_no_token_but_may_have_one(file: Path) -> None:
    assert metrics_token(HERE, {}) is None
    assert metrics_token(Address("::1", 0), {METRICS_TOKEN: TOKEN}) == TOKEN
    assert metrics_token(HERE, {}, file=str(file)) == TOKEN


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "trainer.example", "127.0.0.1.example", "2130706433"])
def test_beyond_this_machine_one_is_needed_and_the_error_says_how_to_give_it(host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        metrics_token(Address(host, 9400), {METRICS_TOKEN: ""})
    for word in (host, "--metrics-token-file", METRICS_TOKEN, "--metrics-insecure"):
        assert word in str(caught.value)


def test_whoever_says_so_opens_it_to_all_but_a_token_that_is_there_is_asked_for(file: Path) -> None:
    assert metrics_token(EVERYWHERE, {}, insecure=True) is None
    assert metrics_token(EVERYWHERE, {METRICS_TOKEN: TOKEN}, insecure=True) == TOKEN
    assert metrics_token(EVERYWHERE, {}, file=str(file), insecure=True) == TOKEN


def test_the_file_goes_before_the_environment(file: Path) -> None:
    assert metrics_token(EVERYWHERE, {METRICS_TOKEN: "x" * 20}, file=str(file)) == TOKEN


@pytest.mark.parametrize("mode", [0o604, 0o666, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match=rf"metrics_token_file {file} is open to others \(mode {mode:04o}\)"):
        metrics_token(EVERYWHERE, {}, file=str(file))


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440])
def test_a_file_of_its_user_or_as_a_cluster_mounts_it_is_read(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert metrics_token(EVERYWHERE, {}, file=str(file)) == TOKEN


def test_a_file_that_is_not_there_is_one_line_also_where_no_token_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics_token_file .*none cannot be read: No such file"):
        metrics_token(HERE, {METRICS_TOKEN: TOKEN}, file=str(tmp_path / "none"))


@pytest.mark.parametrize(
    "token", ["short", "x" * 15, "with a space in it..", "ümlaut-ümlaut-üml", "a-good-beginning\nthen"]
)
def test_a_token_that_keeps_nobody_out_or_fits_no_header_is_refused_and_not_repeated(file: Path, token: str) -> None:
    file.write_text(token)
    for environ, where in (({METRICS_TOKEN: token}, ""), ({}, str(file))):
        with pytest.raises(ConfigError, match="must have at least 16 characters") as caught:
            metrics_token(EVERYWHERE, environ, file=where)
        assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "is_right"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (TOKEN, False),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN.upper()}", False),
        ("Bearer ", False),
        ("", False),
        ("Bearer ÿ" + TOKEN, False),
    ],
)
def test_only_the_whole_token_as_a_bearer_opens(header: str, is_right: bool) -> None:
    assert brings(header, TOKEN) is is_right
