"""Figures in words, the same everywhere in a report."""


def per_s(images_per_s: float) -> str:
    """`12.3 images/s`, `1,234 images/s`."""
    return f"{number(images_per_s)} images/s"


def number(value: float) -> str:
    """Three digits or more where there are none before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def times(ratio: float) -> str:
    """`1.8 times`, `24 times`."""
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times" if ratio >= 1.1 else f"{ratio:.2f} times"


def duration(seconds: float) -> str:
    """With the unit that suits."""
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def counted(num: int, noun: str) -> str:
    """`1 producer`, `2 producers`."""
    return f"{num:,} {noun}" if num == 1 else f"{num:,} {noun}s"


def nbytes(value: float) -> str:
    """Bytes with the decimal unit that suits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:.0f} B"
