"""The examples of README and docs/ run, and print what the pages say: all but times, and counts that timing decides.

A block of Python with a block of output behind it is a program; it runs in an empty folder. Blocks without output are
pieces of programs; they must be Python.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from hmmemu import trackers
from hmmemu.bench import BENCHES
from hmmemu.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n(?:\s*^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
VARIES = re.compile(  # lines of which only the words must be the same
    r"\s+\d+\s+([\d.]+[KMG]?B|-)\s|\s+\d+ page faults|Total CPU|  (proportional set size|saved|mappings of the process) "
)


@dataclass(frozen=True)
class Example:
    """A block of Python in a page, and what it prints; None if the page does not say."""

    page: Path
    line: int
    code: str
    shown: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def examples() -> list[Example]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            language, code, shown = match.groups()
            if language == "python":
                found.append(Example(page, text[: match.start()].count("\n") + 2, code, shown))
    return found


EXAMPLES = examples()


def steady(text: str, folder: Path) -> list[str]:
    """The lines without figures that vary, addresses that the system chose, and the folder's name."""
    text = re.sub(r"0x7[0-9a-f]{11}", "0x7...", text.replace(f"{folder}/", ""))
    return [
        re.sub(r"\d[\d.,]*[a-zA-Z]*", "#", line) if VARIES.match(line) else line
        for line in text.splitlines()
        if line
    ]


def test_pages_have_examples() -> None:
    told = {example.page.name for example in EXAMPLES if example.shown is not None}
    assert {
        "README.md",
        "files.md",
        "merging.md",
        "protectors.md",
        "tutorial-slow.md",
        "tutorial-writes.md",
    } <= told


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.shown is not None], ids=str)
def test_an_example_prints_what_the_page_says(example: Example, tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(example.code)
    found = trackers.best()
    assert found
    env = {
        **os.environ,
        "HMMEMU_TRACKER": found.name,
    }  # what a reader gets; without a word if it is less than all
    command = [sys.executable, "example.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path, env=env
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert steady(done.stdout, tmp_path) == steady(example.shown or "", tmp_path)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if e.shown is None], ids=str)
def test_pieces_of_programs_are_python(example: Example) -> None:
    compile(example.code, str(example), "exec")


def test_links_lead_somewhere() -> None:
    pages = [*PAGES, ROOT / "hmmemu/native/README.md", ROOT / "hmmemu/compiler/README.md"]
    lost = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            if not (page.parent / target).exists():
                lost.append(f"{page.name}: {target}")
    assert not lost


def test_doctor_shows_what_the_page_says() -> None:
    command = [sys.executable, "-m", "hmmemu.cli", "doctor"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("HMMEMU_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    shown = re.search(r"\$ hmmemu doctor\n(.*?)```", (ROOT / "docs/commands.md").read_text(), re.DOTALL)
    assert shown
    names = [re.findall(r"^[✓✗–]  ([\w+. ]+?)  ", text, re.MULTILINE) for text in (done.stdout, shown[1])]
    assert set(names[0]) <= set(names[1]) and len(names[0]) > 10


def test_every_command_option_and_bench_is_described() -> None:
    text = (ROOT / "docs/commands.md").read_text()
    words = [f"## hmmemu {name}" for name in main.commands] + [f"| `{name}` |" for name in BENCHES]
    for command in main.commands.values():
        words += [f"`{max(p.opts, key=len)}" for p in command.params if isinstance(p, click.Option)]
    assert not [word for word in words if word not in text]
