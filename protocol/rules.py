"""How a value object says that a value breaks its rule."""


def require(ok: bool, rule: str, value: object) -> None:
    """Raise ValueError with the rule and the value unless `ok`."""
    if not ok:
        raise ValueError(f"{rule}, got {value!r:.80}")


def require_name(name: str, value: str, max_length: int) -> None:
    """A name that people read in logs: 1 to `max_length` characters, none of which moves a terminal's cursor."""
    require(1 <= len(value) <= max_length, f"{name} must have 1 to {max_length} characters", len(value))
    require(value.isprintable(), f"{name} must be printable", value)
