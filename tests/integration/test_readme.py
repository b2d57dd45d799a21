"""README's example runs, and prints what README says: all but times, and counts that timing decides."""

from __future__ import annotations

import re
from pathlib import Path

from running import run_python

README = Path(__file__).parents[2] / "README.md"


def steady(text: str) -> list[str]:
    """The lines without the table's figures."""
    return [line for line in text.splitlines() if line and not re.match(r"\s+\d+ |Total CPU", line)]


def test_the_first_example() -> None:
    code, shown = re.search(r"```python\n(.*?)```\n```\n(.*?)```", README.read_text(), re.DOTALL).groups()
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert steady(done.stdout) == steady(shown)
    assert done.stdout.count("\n") == shown.count("\n")
