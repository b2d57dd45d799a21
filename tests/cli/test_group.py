"""`hmmemu` itself: help, version, exit status, and the late progress bar."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner
from commands import environment, hmmemu

from hmmemu.cli import main


def test_help_lists_the_commands():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for command in ("run", "doctor", "atomics", "bench"):
        assert f"\n  {command} " in result.output


@pytest.mark.parametrize("command", ["run", "doctor", "atomics", "bench"])
def test_help_of_a_command(command):
    result = CliRunner().invoke(main, [command, "-h"])
    assert result.exit_code == 0 and "--json FILE" in result.output


def test_version():
    done = hmmemu("--version")
    assert (done.returncode, done.stdout) == (0, f"hmmemu {version('hmmemu')}\n")


def test_a_terminal_that_shows_ascii_only():
    done = hmmemu("run", "vector_add", "--size", "tiny", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "+ verified" in done.stdout


def test_a_full_disk_is_one_line():
    done = hmmemu("run", "vector_add", "--size", "tiny", "--json", "/dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "hmmemu: error: [Errno 28] No space left on device: '/dev/full'\n",
    )


def test_installed_as_a_command():
    script = os.path.join(os.path.dirname(sys.executable), "hmmemu")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("hmmemu ")


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "hmmemu", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("hmmemu ")


def test_no_python_warnings():
    done = hmmemu("run", "vector_add", "--size", "tiny", HMMEMU_DEVICE=None)
    assert (done.returncode, done.stderr) == (0, "")


def test_unknown_command_is_bad_usage():
    done = hmmemu("nosuch")
    assert done.returncode == 2 and "No such command 'nosuch'" in done.stderr


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom hmmemu.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = ('numpy', 'rich', 'hmmemu._native', 'hmmemu.space', 'tree_sitter')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


PROGRESS = """
import sys, time
from hmmemu.cli import output
output.PATIENCE_S = float(sys.argv[2])
with output.LateProgress("counting sheep", total=2) as progress:
    progress.step("counting goats")
    progress.advance()
    time.sleep(float(sys.argv[1]))
"""


def on_a_terminal(seconds, patience):
    """What the progress bar writes to a terminal when the work takes `seconds`."""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-c", PROGRESS, str(seconds), str(patience)]
    subprocess.run(command, stderr=terminal, env=environment(TERM="xterm", COLUMNS="80"), check=True)
    os.close(terminal)
    shown = b""
    try:
        while piece := os.read(controller, 65536):
            shown += piece
    except OSError:  # Linux ends a terminal without writers with EIO
        pass
    os.close(controller)
    return shown.decode()


def test_progress_bar_appears_only_for_long_work():
    assert "counting goats" in on_a_terminal(1.5, 0.1)
    assert on_a_terminal(0.0, 60) == ""


def test_no_progress_bar_without_a_terminal():
    command = [sys.executable, "-c", PROGRESS, "0.5", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
