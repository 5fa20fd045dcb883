"""The edge of a process: exit status, one line, no traceback, clean-up before the end. Real processes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.config import process

PREAMBLE = """
import signal, sys, time
from penstock.config import process
from penstock.protocol.errors import ConfigError, PenstockError
"""


def start(body: str) -> subprocess.Popen[str]:
    source = f"{PREAMBLE}\ndef main():\n{body}\nprocess.run(main)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", source]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("body", "code", "err"),
    [
        ("    return None", 0, ""),
        ("    return 3", 3, ""),
        ("    raise PenstockError('the well is dry')", 1, "error: the well is dry\n"),
        ("    raise ConfigError('a.yaml:1: b: unknown key')", 2, "error: a.yaml:1: b: unknown key\n"),
        ("    raise KeyboardInterrupt", 130, ""),
        ("    sys.exit(5)", 5, ""),
    ],
)
def test_the_end_of_main_is_the_end_of_the_process(body: str, code: int, err: str) -> None:
    child = start(body)
    assert child.communicate(timeout=30) == ("", err)
    assert child.returncode == code


def test_a_defect_shows_its_traceback() -> None:
    child = start("    return 1 / 0")
    _, err = child.communicate(timeout=30)
    assert child.returncode == 70
    assert "ZeroDivisionError" in err


def test_a_reader_that_has_gone_is_no_defect() -> None:
    child = start("    for number in range(1_000_000):\n        print(number)")
    assert child.stdout is not None
    assert child.stderr is not None
    assert child.stdout.readline() == "0\n"
    child.stdout.close()
    assert child.wait(30) == 141
    assert child.stderr.read() == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_signal_runs_the_clean_up_and_ends_quietly(number: signal.Signals, code: int) -> None:
    child = start(
        """
    try:
        print("ready", flush=True)
        time.sleep(60)
    except Exception:
        print("swallowed")
    finally:
        print("cleaned", flush=True)
"""
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == code


def test_a_child_that_must_not_outlive_its_parent_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_UNTIL_STDIN_CLOSES", "1")
    child = start(
        "    try:\n        print('ready', flush=True)\n        time.sleep(60)\n    finally:\n        print('cleaned')"
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == 143


def test_a_child_that_watches_its_input_may_end_before_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UNTIL_STDIN_CLOSES", "1")
    child = start("    print('done')")
    assert child.wait(timeout=30) == 0  # its input is still open
    assert child.communicate(timeout=30) == ("done\n", "")


def test_a_child_logs_what_its_parent_says_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UNTIL_STDIN_CLOSES", "1")
    child = start("    process.configure_logging('rank 0')\n    print('ready', flush=True)\n    time.sleep(60)")
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("WARNING producer-1 is restarting\nINFO it \x1b[2J serves\nand more")
    child.stdin.close()
    assert child.wait(30) == 143
    assert child.stderr is not None
    said = [line.partition(" ")[2] for line in child.stderr.read().splitlines()]
    assert said == ["rank 0 WARNING: producer-1 is restarting", "rank 0 INFO: it \\x1b[2J serves"]


@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("return 0", 0, "rank 0 INFO: it works"),
        ("raise PenstockError('no room')", 1, "error: no room"),
        ("return 1 / 0", 70, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_log_can_be_kept_beside_the_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: str, code: int, last: str
) -> None:
    monkeypatch.setenv("PENSTOCK_LOG_FILE", str(tmp_path / "rank-0.log"))
    child = start(
        "    import logging, os\n    process.configure_logging('rank 0')\n"
        "    assert 'PENSTOCK_LOG_FILE' not in os.environ\n"
        f"    logging.getLogger('penstock').info('it works')\n    {end}"
    )
    _, err = child.communicate(timeout=30)
    assert child.returncode == code
    kept = (tmp_path / "rank-0.log").read_text()
    assert kept == err
    assert kept.splitlines()[0].endswith("rank 0 INFO: it works")
    assert kept.splitlines()[-1].endswith(last)


# --- an orderly end ---------------------------------------------------------------------------------------------------

GENTLE = """
    import os, threading
    asked = threading.Event()
    def begin():
        os.write(1, b"begun\\n")  # a signal handler must not print: it may have interrupted a print
        asked.set()
        return {answer}
    try:
        with process.ending_gently(begin{how}) as ending:
            print("ready", flush=True)
            asked.wait(60)
            print("finishing", ending(), flush=True)
            {finish}
        print("done", ending(), flush=True)
        {after}
    finally:
        print("cleaned", flush=True)
    return 143 if ending() else 0
"""


def gentle(*, answer: bool = True, finish: str = "pass", after: str = "pass", how: str = "") -> subprocess.Popen[str]:
    """A child that is ready to be asked for an orderly end."""
    child = start(GENTLE.format(answer=answer, finish=finish, after=after, how=how))
    wait_for(child, "ready")
    return child


def wait_for(child: subprocess.Popen[str], line: str) -> None:
    assert child.stdout is not None
    assert child.stdout.readline() == f"{line}\n"


def test_the_first_sigterm_begins_an_orderly_end_that_may_take_its_time() -> None:
    child = gentle(finish="time.sleep(0.5)")
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=30) == ("begun\nfinishing True\ndone True\ncleaned\n", "")
    assert child.returncode == 143


def test_a_second_sigterm_ends_an_orderly_end() -> None:
    child = gentle(finish="time.sleep(60)")
    child.send_signal(signal.SIGTERM)
    wait_for(child, "begun")
    wait_for(child, "finishing True")
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == 143


def test_ctrl_c_may_begin_an_orderly_end_too_and_a_second_one_ends_it() -> None:
    child = gentle(finish="time.sleep(60)", how=", signal.SIGINT")
    child.send_signal(signal.SIGINT)
    wait_for(child, "begun")
    wait_for(child, "finishing True")
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == 130


def test_the_echo_of_a_signal_ends_no_orderly_end() -> None:
    child = gentle(finish="sys.stdin.readline()", how=", echo_s=60.0")
    child.send_signal(signal.SIGTERM)
    wait_for(child, "begun")
    wait_for(child, "finishing True")
    child.send_signal(signal.SIGTERM)
    assert child.communicate("go on\n", timeout=30) == ("done True\ncleaned\n", "")
    assert child.returncode == 143


def test_where_there_is_nothing_to_finish_the_first_sigterm_ends_all() -> None:
    child = gentle(answer=False)
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=30) == ("begun\ncleaned\n", "")
    assert child.returncode == 143


def test_ctrl_c_ends_all_at_once() -> None:
    child = gentle()
    child.send_signal(signal.SIGINT)
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == 130


def test_after_it_a_sigterm_means_what_it_meant_before() -> None:
    child = gentle(after="print('on', flush=True); time.sleep(60)")
    child.send_signal(signal.SIGTERM)
    for line in ("begun", "finishing True", "done True", "on"):
        wait_for(child, line)
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == 143


def test_where_the_parent_has_gone_nobody_waits_for_an_orderly_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_UNTIL_STDIN_CLOSES", "1")
    child = gentle()
    assert child.communicate(timeout=30) == ("cleaned\n", ""), "no begin: communicate closes its standard input"
    assert child.returncode == 143


def test_a_program_that_is_not_asked_ends_as_ever() -> None:
    child = start(GENTLE.format(answer=True, finish="pass", after="pass", how="").replace("asked.wait(60)", "pass"))
    assert child.communicate(timeout=30) == ("ready\nfinishing False\ndone False\ncleaned\n", "")
    assert child.returncode == 0


def test_a_reader_that_leaves_is_no_error() -> None:
    child = start("    sys.stdin.read()\n    print('x' * 100)")
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    assert child.communicate("go", timeout=30) == (None, "")
    assert child.returncode == 0


def test_log_lines_carry_the_role() -> None:
    configure = "    import logging\n    process.configure_logging('producer 3', 'info')\n"
    child = start(configure + "    logging.getLogger('penstock.x').info('hi')")
    _, err = child.communicate(timeout=30)
    assert err.endswith(" producer 3 INFO: hi\n")


def test_a_line_break_in_a_peers_words_forges_no_record() -> None:
    configure = "    import logging\n    process.configure_logging('rank 0', 'info')\n"
    child = start(configure + "    logging.getLogger('penstock.x').info('bye\\n12:00:00 rank 0 INFO: fine\\x1b[2J')")
    _, err = child.communicate(timeout=30)
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_a_line_whose_values_do_not_fit_ends_nobody() -> None:
    configure = "    import logging\n    process.configure_logging('rank 0', 'info')\n"
    child = start(configure + "    logging.getLogger('library').warning('%d images', 'many')\n    print('goes on')")
    out, err = child.communicate(timeout=30)
    assert (out, child.returncode) == ("goes on\n", 0)
    assert "%d images" in err


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_that_a_finaliser_swallowed_comes_again(number: str, code: int) -> None:
    """Python lets no exception out of `__del__`, wherever the signal happens to come."""
    child = start(
        f"""
    class Slow:
        def __del__(self):
            signal.raise_signal(signal.{number})
            print("not reached")
    try:
        slow = Slow()
        del slow
        time.sleep(60)
    finally:
        print("cleaned")
"""
    )
    assert child.communicate(timeout=30) == ("cleaned\n", "")
    assert child.returncode == code


def test_another_error_of_a_finaliser_is_shown_as_ever() -> None:
    child = start(
        """
    class Broken:
        def __del__(self):
            raise ValueError("the drain is blocked")
    Broken()
"""
    )
    _, err = child.communicate(timeout=30)
    assert child.returncode == 0
    assert "the drain is blocked" in err


def test_a_signal_is_told_by_its_name() -> None:
    assert str(process.Terminated(signal.SIGTERM)) == "it was told to end (SIGTERM)"
