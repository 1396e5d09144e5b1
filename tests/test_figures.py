"""The figures that are asked of a GPU, from rows that are made up."""

from __future__ import annotations

import dataclasses

import pytest

from zigzag.bench.workload import COMPILED, EAGER, OURS


def row_of(side, direction, seconds, **fields):
    """A row of dense_pathway, level 1, on a GPU."""
    from zigzag.bench.rows import Row

    known = dict.fromkeys((field.name for field in dataclasses.fields(Row)), None)
    known |= {"case": "dense_pathway.level1", "layout": "channels_last", "grids": (3, 5, 7), "dtype": "bfloat16"}
    known |= {"backend": side, "direction": direction, "median": seconds, "device": "cuda", "timing": "events"}
    return Row(**known | fields)


class TestFiguresOfAGPU:
    def found(self, rows):
        from zigzag.bench.figures import figures

        return {figure.what: figure for figure in figures(rows)}

    def test_shares_of_the_copy_bandwidth(self):
        rate = 1e12
        rows = [
            row_of(side, way, seconds, bytes=moved, copy_share=moved / seconds / rate)
            for side, way, seconds, moved in (
                (OURS, "forward", 1e-3, 9e8),
                (OURS, "forward+backward", 4e-3, 9e8 + 15e8),
                ("triton", "forward", 2e-3, 9e8),
            )
        ]
        found = self.found(rows)
        forward, backward = (
            found[f"dense_pathway, level 1, {way}: share of the copy bandwidth"] for way in ("forward", "backward")
        )
        assert forward.values == pytest.approx({OURS: 0.9, "triton": 0.45})
        assert (forward.asked, forward.reached) == ("≥ 0.85", True)
        assert backward.values == pytest.approx({OURS: 0.5})
        assert backward.reached is False

    def test_the_faster_of_two_backends(self):
        rows = [
            row_of(*own) for own in (("triton", "forward", 3e-3), ("cuda", "forward", 2e-3), (OURS, "forward", 3e-3))
        ]
        figure = self.found(rows)["dense_pathway, forward / the fastest backend"]
        assert figure.values == pytest.approx({"triton": 1.5, "cuda": 1.0, OURS: 1.5})
        assert (figure.asked, figure.reached) == ("", None)

    def test_other_sides_over_ours_come_from_the_same_floor(self):
        fuse = {"case": "neck.fuse", "kernel": 3}
        rows = [
            row_of(side, "forward+backward", 1.0, over_floor=over, **fuse)
            for side, over in ((OURS, 1.3), (EAGER, 6.5), (OURS, 99.0), (COMPILED, 2.6))
        ]
        found = self.found(rows)
        assert found["neck, forward + backward: eager / this"].values[OURS] == pytest.approx(5.0)
        assert found["neck, forward + backward: compiled / this"].values == pytest.approx({OURS: 2.0, EAGER: 0.4})

    def test_a_graph_is_held_against_eager_as_it_is_launched(self):
        whole = {"case": "neck.whole", "kernel": 3}
        rows = [
            row_of(EAGER, "forward", 8e-3, shape="1x8", **whole),
            row_of(OURS, "forward", 4e-3, shape="1x8", **whole),
            row_of(OURS, "forward", 1e-3, shape="1x8", timing="graph", **whole),
            row_of(EAGER, "forward", 2e-3, shape="1x8", timing="graph", **whole),
        ]
        what = "neck of a small image, forward: eager / a CUDA graph of this"
        assert self.found(rows)[what].values == pytest.approx({OURS: 8.0, EAGER: 4.0})
        assert what not in self.found([dataclasses.replace(row, timing="events") for row in rows])
        assert what not in self.found([dataclasses.replace(rows[0], shape="16x8"), *rows[1:]])

    def test_graphs_of_the_neck_are_a_line_of_their_own(self):
        fuse = {"case": "neck.fuse", "kernel": 3}
        rows = [
            row_of(OURS, "forward", 1.0, over_floor=4.0, timing="events", **fuse),
            row_of(OURS, "forward", 1.0, over_floor=1.25, timing="graph", **fuse),
        ]
        found = self.found(rows)
        assert found["neck, forward / its fusion convolutions alone"].values == {OURS: 4.0}
        assert found["neck, forward, both as CUDA graphs"].values == {OURS: 1.25}
        assert "neck, forward, both as CUDA graphs" not in self.found(rows[:1])

    def test_peak_memory_against_eagers(self):
        rows = [
            row_of(side, "forward+backward", 1.0, case="neck.fuse", kernel=3, peak_bytes=peak)
            for side, peak in ((OURS, 3 << 30), (EAGER, 10 << 30))
        ]
        figure = self.found(rows)["peak memory of the neck's forward + backward / eager's"]
        assert figure.values[OURS] == pytest.approx(0.3)
        assert figure.reached
