"""The one way in which a configuration states a rule and refuses a value."""

from penstock.protocol.errors import ConfigError


def require(ok: bool, rule: str, value: object) -> None:
    """Raise ConfigError `RULE, got VALUE` unless `ok`."""
    if not ok:
        raise ConfigError(f"{rule}, got {value!r}")
