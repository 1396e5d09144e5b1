"""Rows kept by device and commit, and two runs compared: what is slower, what is noise, what is no rows at all."""

import dataclasses
import json

import pytest

pytest.importorskip("rich")

from zigzag import cli
from zigzag.bench import compare, rows, store
from zigzag.bench.settings import BenchError

MACHINE = rows.Machine(
    zigzag="0.1.0",
    commit="0123456789ab",
    torch="2.14.1",
    torchvision="",
    python="3.11",
    system="Linux",
    device="AMD EPYC (Zen 4)",
    isa="avx512",
    cpu="AMD EPYC (Zen 4)",
    cores=2,
    threads=2,
    load=0.1,
    date="2026-11-23T00:00:00+00:00",
)


def row(key="region_codes forward", backend="zigzag", over_floor=1.5, spread=0.1, median=1e-3, **fields):
    """A row; `spread` is that of its ratio and of its time."""
    values = {field.name: None for field in dataclasses.fields(rows.Row)}
    values |= {"key": key, "case": "region_codes", "operation": "region_codes", "backend": backend, "status": "ok"}
    values |= {"direction": "forward", "device": "cpu", "dtype": "float32", "layout": "channels_last", "size": 473}
    values |= {"shape": "", "grids": (3, 5, 7), "cache": "cold", "timing": "clock", "note": "", "runs": 9, "bytes": 1}
    values |= {"flops": 1, "reproduce": "zigzag bench", "over_floor": over_floor, "median": median}
    low, high = 1 - spread / 2, 1 + spread / 2
    values |= {"over_floor_p20": low * over_floor, "over_floor_p80": high * over_floor}
    values |= {"p20": low * median, "p80": high * median}
    return rows.Row(**values | fields)


def run_of(*found, **fields):
    return rows.Run(dataclasses.replace(MACHINE, **fields), list(found))


def outcomes(a, b):
    return [each.outcome for each in compare.compare(run_of(*a), run_of(*b))]


class TestCompare:
    def test_less_than_the_spread_is_noise(self):
        assert outcomes([row(over_floor=1.0)], [row(over_floor=1.09)]) == ["noise"]
        assert outcomes([row(over_floor=1.0)], [row(over_floor=1.2)]) == ["slower"]
        assert outcomes([row(over_floor=1.2)], [row(over_floor=1.0)]) == ["faster"]

    def test_the_wider_spread_of_the_two_counts(self):
        assert outcomes([row(over_floor=1.0, spread=0.3)], [row(over_floor=1.2, spread=0.01)]) == ["noise"]

    def test_a_drift_of_the_machine_leaves_the_ratios(self):
        before = [row(), row(backend="floor", over_floor=1.0)]
        after = [row(median=2e-3), row(backend="floor", over_floor=1.0, median=2e-3)]
        assert outcomes(before, after) == ["noise", "slower"]

    def test_sizes_of_a_sweep_are_compared_each_with_itself_and_the_first_of_a_key(self):
        sweep = [row(over_floor=1.5), row(over_floor=3.0, size=118), row(over_floor=9.0)]
        assert outcomes(sweep, sweep) == ["noise", "noise"]

    def test_two_runs_state_no_spread(self):
        assert outcomes([row(runs=2)], [row(over_floor=9.0)]) == []

    def test_what_one_run_refused_is_not_compared(self):
        wrong = dataclasses.replace(row(), status="WRONG", runs=0, median=None, over_floor=None)
        assert outcomes([row()], [wrong]) == []

    @pytest.mark.parametrize(("over_floor", "status", "word"), [(1.5, 0, "noise"), (3.0, 1, "slower")])
    def test_the_exit_status_and_the_table(self, tmp_path, capsys, over_floor, status, word):
        for name, value in (("a", 1.5), ("b", over_floor)):
            rows.write(tmp_path / f"{name}.json", [row(over_floor=value)], MACHINE)
        assert cli.main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == status
        shown = capsys.readouterr().out
        assert word in shown
        assert f"1 rows: {1 - status} differ by less than their spread, {status} are slower" in shown

    @pytest.mark.parametrize(("beyond", "share"), [(0, "100.0%"), (1, "95.0%"), (3, "85.0%")])
    def test_the_share_within_the_spread_stands_at_the_end(self, tmp_path, capsys, beyond, share):
        keys = [f"case{i} forward" for i in range(20)]
        rows.write(tmp_path / "a.json", [row(key) for key in [*keys, "case20 forward"]], MACHINE)
        other = [row(key, over_floor=9.0 if i < beyond else 1.55) for i, key in enumerate(keys)]
        few = [row("case20 forward", over_floor=9.0, runs=2)]
        rows.write(tmp_path / "b.json", [*other, *few], MACHINE)
        status = cli.main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
        assert status == (1 if beyond else 0)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last == f"{share} of the rows differ by less than the spread that they state."

    def test_another_device_compares_ratios_alone(self, tmp_path, capsys):
        found = [row(), row(backend="floor")]
        rows.write(tmp_path / "a.json", found, MACHINE)
        rows.write(tmp_path / "b.json", found, dataclasses.replace(MACHINE, isa="avx2"))
        assert cli.main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
        shown = capsys.readouterr().out
        assert "Not the same device" in shown
        assert "1 rows:" in shown

    def test_nothing_in_common(self, tmp_path, capsys):
        for name, key in (("a", "one"), ("b", "other")):
            rows.write(tmp_path / f"{name}.json", [row(key)], MACHINE)
        assert cli.main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
        assert "have no row in common" in capsys.readouterr().err

    def test_no_ratio_in_common_with_another_device(self, tmp_path, capsys):
        for name, isa in (("a", "avx512"), ("b", "avx2")):
            rows.write(tmp_path / f"{name}.json", [row(backend="floor")], dataclasses.replace(MACHINE, isa=isa))
        assert cli.main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
        assert "have no row in common" in capsys.readouterr().err


class TestStore:
    def test_rows_are_found_by_commit(self, tmp_path):
        path = store.keep(tmp_path, [row()], MACHINE, "ci")
        assert path == tmp_path / "amd-epyc-zen-4-avx512-2-threads" / "0123456789ab-ci.json"
        assert store.find("0123", tmp_path) == store.find(str(path), tmp_path) == rows.read(path)
        assert [run.machine.commit for run in store.history(tmp_path)] == ["0123456789ab"]

    def test_history_is_by_date(self, tmp_path):
        for commit, date in (("aaaa", "2026-11-24"), ("bbbb", "2026-11-23")):
            store.keep(tmp_path, [row()], dataclasses.replace(MACHINE, commit=commit, date=date), "ci")
        assert [run.machine.commit for run in store.history(tmp_path)] == ["bbbb", "aaaa"]

    @pytest.mark.parametrize("commit", ["", "0123456789ab+"])
    def test_what_no_commit_has_is_not_kept(self, tmp_path, commit):
        with pytest.raises(BenchError, match="commit the changes first"):
            store.keep(tmp_path, [row()], dataclasses.replace(MACHINE, commit=commit), "ci")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("name", ["ffff", "no such file", "*"])
    def test_no_such_rows(self, tmp_path, name):
        store.keep(tmp_path, [row()], MACHINE, "ci")
        with pytest.raises(BenchError, match=r"must be a file of rows or a commit: .* has rows of no such commit"):
            store.find(name, tmp_path)

    def test_several_runs_of_a_commit(self, tmp_path):
        for suite in ("ci", "full"):
            store.keep(tmp_path, [row()], MACHINE, suite)
        with pytest.raises(BenchError, match=r"name one of .*ci.json, .*full.json"):
            store.find("0123", tmp_path)


class TestRows:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "cannot be read as rows"),
            ("[]", "must hold rows of schema 2, got None"),
            ('{"schema": 1}', "must hold rows of schema 2, got 1"),
            ('{"schema": 2, "machine": {}, "rows": []}', "is not of schema 2"),
            ('{"schema": 2, "rows": [{"grids": [], "speed": 1}]}', "is not of schema 2"),
        ],
    )
    def test_a_file_that_holds_none(self, tmp_path, content, message):
        (tmp_path / "rows.json").write_text(content)
        with pytest.raises(BenchError, match=message):
            rows.read(tmp_path / "rows.json")

    def test_a_row_takes_a_line_without_what_is_none(self, tmp_path):
        rows.write(tmp_path / "rows.json", [row(), row(backend="floor")], MACHINE)
        lines = (tmp_path / "rows.json").read_text().splitlines()
        assert len(lines) == 3 + 2 + 1
        assert "saved_bytes" not in json.loads(lines[3].removesuffix(","))
        assert list(tmp_path.iterdir()) == [tmp_path / "rows.json"]
