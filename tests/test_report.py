"""`zigzag report`: what is on the page, that it needs no network, and what it refuses."""

import dataclasses
import re

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from rich.console import Console

from zigzag.bench import console, rows, session
from zigzag.bench.ceilings import Ceilings
from zigzag.bench.rows import Machine, Row
from zigzag.bench.workload import DIRECTIONS, EAGER, FLOOR, OURS
from zigzag.cli import main

CEILINGS = Ceilings({1 << 20: 1e10, 1 << 28: 1e9}, {1 << 20: 1e10, 1 << 28: 2e9}, 1e11)
TIMES = {OURS: 0.002, EAGER: 0.006, FLOOR: 0.001}


def row(side, direction, **changes):
    """A row of the neck with every field of its type."""
    values = {field.name: None if "None" in str(field.type) else 0 for field in dataclasses.fields(Row)}
    values |= {"key": "neck.fuse 3x3", "case": "neck.fuse", "operation": "neck.fuse", "kernel": 3, "grids": (3, 5, 7)}
    values |= {"backend": side, "direction": direction, "device": "cpu", "dtype": "float32", "layout": "channels_last"}
    values |= {
        "shape": "1x8x9x9",
        "status": "ok",
        "note": "",
        "cache": "cold",
        "timing": "clock",
        "reproduce": "zigzag <b>",
    }
    time = TIMES[side]
    values |= {
        "reproduce": "zigzag <b>",
        "median": time,
        "p20": time,
        "p80": time,
        "runs": 4,
        "bytes": 1000,
        "flops": 9000,
        "roofline": 0.5,
    }
    ratios = {"over_floor": time / TIMES[FLOOR], "speedup": time / TIMES[OURS]}
    values |= {name + suffix: value for name, value in ratios.items() for suffix in ("", "_p20", "_p80")}
    return Row(**{**values, "noise": False, "saved_bytes": 100, "peak_bytes": 300, "size": 64, **changes})


ROWS = [row(side, direction) for direction in DIRECTIONS for side in TIMES]


def machine(**changes):
    values = {field.name: field.name for field in dataclasses.fields(Machine)}
    values |= {"device": "cpu", "cores": 2, "threads": 2, "load": 0.1, "date": "2026-01-02T03:04:05+00:00"}
    return Machine(**{**values, **changes})


@pytest.fixture
def folder(tmp_path):
    """What `zigzag bench` leaves: cases, and a sweep whose rows are no cases."""
    swept = [row(OURS, "forward", size=size, median=size / 1e5) for size in (32, 48)]
    rows.write(tmp_path / "rows.json", [*ROWS, *swept], machine())
    points = [("size", one.size, len(ROWS) + i) for i, one in enumerate(swept)]
    picture = [("A photograph", "data:image/jpeg;base64,AAAA")]
    left = session.Session("zigzag bench", len(ROWS), points, {"float32": CEILINGS}, picture, ["<busy>"])
    session.write(tmp_path / session.NAME, left)
    return tmp_path


def written(folder, *words):
    assert main(["report", str(folder), *map(str, words)]) == 0
    return (folder / "report.html").read_text()


def test_a_gpus_backends_are_drawn_and_its_figures_have_their_own_targets(folder):
    sides = {"triton": 0.003, "cuda": 0.0015, "hopper": 0.001}
    changes = {"device": "cuda", "dtype": "float32"}
    gpu = [row(side, way, **changes) for way in DIRECTIONS for side in TIMES]
    gpu += [
        row(OURS, way, **changes, backend=side, median=time, over_floor=time / TIMES[FLOOR])
        for way in DIRECTIONS
        for side, time in sides.items()
    ]
    rows.write(folder / "rows.json", gpu, machine())
    left = session.read(folder / session.NAME)
    session.write(folder / session.NAME, dataclasses.replace(left, cases=len(gpu), points=[]))
    page = written(folder)
    for side in sides:
        assert f"var(--{side})" in page
        assert page.count(f"--{side}: #") == 2  # light and dark
    assert re.search(
        r"eager / this</td><td>3×3</td><td>≥ 4</td><td class=\"ours bad\">3</td><td class=\"\">2</td>", page
    )


def test_the_page_is_whole_and_needs_no_network(folder):
    page = written(folder)
    assert not re.search(r"""(src|href)=["']?(https?:|//)|@import|url\((?!#)""", page)
    assert not re.search(r"#0[0-9a-f]0[0-9a-f]0[0-9a-f]\b", page)  # no colour that only stands for one of the page's
    assert "prefers-color-scheme: dark" in page
    assert page.count('class="broad"') == page.count('class="narrow"') == 5
    ids = re.findall(r'id="(s\d+)"', page)
    assert re.findall(r'<a href="#(s\d+)"', page) == ids == [f"s{i}" for i in range(len(ids))]


@pytest.mark.parametrize(
    ("changes", "spread", "speedup"),
    [
        ({}, "6 – 6", "3×"),
        ({"noise": True}, "6 – 6", "3× (noise)"),
        ({"runs": 1}, "1 run", "3× (1 run)"),  # as rows were written that called it certain
        ({"runs": 2, "p20": None, "p80": None, "speedup_p20": None, "noise": None}, "2 runs", "3× (2 runs)"),
        ({"speedup_p20": None, "noise": None}, "6 – 6", "3× (few pairs of runs)"),
    ],
)
def test_a_speedup_is_certain_only_beyond_a_spread(folder, capsys, changes, spread, speedup):
    found = [row(side, "forward", **(changes if side == EAGER else {})) for side in TIMES]
    rows.write(folder / "rows.json", found, machine())
    left = session.read(folder / session.NAME)
    session.write(folder / session.NAME, dataclasses.replace(left, cases=len(found), points=[]))
    page = written(folder)
    assert f"<td>6</td><td>{spread}</td>" in page
    assert f"<td>{speedup}</td>" in page
    assert f">{speedup}</text>" in page  # the bar's
    console.Screen(Console(width=200)).rows(found, "zigzag bench")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " eager " in line)
    assert spread.replace(" – ", "-") in line
    assert f" {speedup.replace('×', 'x')} " in line


def test_words_from_outside_are_text(folder):
    page = written(folder)
    assert "&lt;busy&gt;" in page
    assert "zigzag &lt;b&gt;" in page


def test_rows_of_sweeps_are_points_and_no_cases(folder):
    page = written(folder)
    table = page[page.index(">All rows</h2>") :]
    assert table.count("<tr>") == 1 + len(ROWS)
    assert "Time against image size" in page


def test_history_has_every_stored_run_by_date(folder):
    stored = folder / "results"
    for commit, date in (("bbbbbbbbbbbb", "2026-01-03"), ("aaaaaaaaaaaa", "2026-01-02")):
        about = machine(commit=commit, date=f"{date}T00:00:00+00:00")
        rows.write(stored / "cpu" / f"{commit}-default.json", ROWS, about)
    page = written(folder, "--history", stored)
    history = page[page.index(">History</h2>") :]
    assert re.findall(r"2026-01-0\d \w{7}", history)[:2] == ["2026-01-02 aaaaaaa", "2026-01-03 bbbbbbb"]
    assert "neck, forward / its fusion convolutions alone, 3x3" in history


def test_nothing_to_report_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "there is nothing to report" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("session.json", "{", "is no JSON file"),
        ("session.json", "[]", "must hold a session of zigzag bench of schema 1, got schema None"),
        ("profile.json", '{"schema": 7}', "must hold a profile of schema 1, got schema 7"),
        ("scaling.json", '{"schema": 7}', "must hold a run of zigzag scale of schema 1, got schema 7"),
    ],
)
def test_a_file_of_another_kind_is_refused_and_the_page_stays(folder, capsys, name, content, message):
    before = written(folder)
    (folder / name).write_text(content)
    assert main(["report", str(folder)]) == 2
    assert message in capsys.readouterr().err
    assert (folder / "report.html").read_text() == before
