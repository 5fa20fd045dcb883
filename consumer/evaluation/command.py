"""`penstock evaluate ENCODER --data SPEC`: figures of a frozen encoder on images that decided nothing about it."""

from collections.abc import Sequence
from pathlib import Path

from penstock.config.load import load_config
from penstock.config.process import configure_logging, shown_width
from penstock.consumer.evaluation.config import EvaluateConfig
from penstock.protocol.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"


def main(argv: Sequence[str]) -> int:
    """Measure, print a table, write JSON where asked for. Returns the exit status."""
    config = load_config(
        EvaluateConfig,
        named_encoder(argv),
        preset_dir=PRESETS,
        prog="penstock evaluate",
        description=(
            "Measure a frozen encoder on labelled images: penstock evaluate ENCODER --data SPEC. ENCODER is a run "
            "folder, a model's folder or hub id, random:ENCODER, or pixels, and may be given as --encoder too."
        ),
    )
    if config.json is not None and not config.json.parent.is_dir():
        raise ConfigError(f"--json {config.json}: no such folder: {config.json.parent}")
    if config.json is not None and config.json.is_dir():
        raise ConfigError(f"--json {config.json} is a folder; name a file in it")
    configure_logging("evaluate")
    # Here because they load torch, which the help does without.
    from penstock.consumer.evaluation.evaluate import evaluate
    from penstock.consumer.evaluation.report import TABLE_WIDTH, draw_table

    report = evaluate(config)
    print(draw_table(report, shown_width(TABLE_WIDTH)))
    if config.json is not None:
        try:
            report.write(config.json)
        except OSError as error:
            raise ConfigError(f"--json {config.json} cannot be written: {error.strerror}") from error
    return 0


def named_encoder(argv: Sequence[str]) -> list[str]:
    """The arguments with a first one that is no flag as `--encoder`."""
    return ["--encoder", *argv] if argv and not argv[0].startswith("-") else list(argv)
