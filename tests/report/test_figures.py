"""The figure of rates against the loss, where a run has a single audit."""

import warnings

from lightning_memaudit.report.figures import rate_figure


def test_a_single_audit_is_drawn_where_its_loss_is(run):
    rows = [row for row in run.audits() if row["audit"] == 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = rate_figure(rows)
        figure.canvas.draw()
    for panel in figure.axes:
        right, left = sorted(panel.get_xlim())
        assert right < rows[0]["train_loss"] < left
        box = panel.get_window_extent()
        assert box.width > 50
        assert box.height > 50
