"""`hmmemu bench`, for real, in its quick form."""

from __future__ import annotations

import json

from commands import hmmemu

from hmmemu.bench import BENCHES


def test_without_a_name_the_benches_are_listed():
    done = hmmemu("bench")
    assert done.returncode == 0
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [name for name, question in lines if question] == list(BENCHES)


def test_unknown_bench_is_bad_usage():
    done = hmmemu("bench", "nosuch")
    assert done.returncode == 2 and "there is no bench 'nosuch'; choose one of" in done.stderr


def test_launch(tmp_path):
    done = hmmemu("bench", "launch", "--quick", "--json", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out.json").read_text())
    assert document["name"] == "launch" and document["quick"] is True and document["result"]
    assert done.stdout.strip()


def test_a_size_for_a_bench_that_takes_none_is_bad_usage():
    done = hmmemu("bench", "launch", "--bytes", 4096)
    assert done.returncode == 2 and "the bench 'launch' has sizes of its own" in done.stderr


def test_a_size_that_cannot_be_measured():
    done = hmmemu("bench", "dirty", "--bytes", 4096)
    assert done.returncode == 1 and "multiple of 2 MiB" in done.stderr
