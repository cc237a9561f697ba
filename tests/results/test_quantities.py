"""The table of quantities is what measuring, rows and loggers do."""

import torch

from lightning_memaudit import audit
from lightning_memaudit.measurement.metrics import METRICS
from lightning_memaudit.report.logged_tables import IMAGE_COLUMNS, RATE_COLUMNS
from lightning_memaudit.results.quantities import QUANTITIES


def report():
    images = torch.rand(3, 1, 12, 12)
    return audit(lambda x: x, images, images.flip(0) * 0.5, patterns=["half"], methods=["biharmonic"])


def test_every_quantity_is_measured_and_saved_where_the_table_says():
    found = report()
    for one in QUANTITIES:
        assert all(one.name in cell.columns for cell in found.cells), one.name
        assert all((one.name in row) == one.saved for row in found.images), one.name
        if one.summary:
            assert all(f"{one.name}_{one.summary}" in row for row in found.rows), one.name


def test_a_summary_is_over_the_images_that_have_a_value():
    found = report()
    for row in found.rows:
        values = [one["hidden_psnr"] for one in found.images if one["group"] == row["group"]]
        assert abs(row["hidden_psnr_mean"] - sum(values) / len(values)) < 1e-4
        assert row["mask_accuracy_mean"] is None, "biharmonic is told the mask"


def test_every_metric_has_a_line_in_the_table():
    assert set(METRICS) <= {one.name for one in QUANTITIES}


def test_tables_of_loggers_take_their_columns_from_it():
    found = report()
    assert set(IMAGE_COLUMNS) <= set(found.images[0])
    assert set(RATE_COLUMNS) <= set(found.rows[0])
    assert {one.name for one in QUANTITIES if "images" in one.in_tables} <= set(IMAGE_COLUMNS)


def test_the_autoencoder_makes_its_own_output_of_each_group_once():
    """The train loss and the own PSNR share one evaluation.

    Beside it, the first two images are checked before. All members are also called in other batches, by halves.
    """
    calls = []

    def autoencoder(images):
        calls.append(len(images))
        return images * 0.9

    members, controls = torch.rand(5, 1, 8, 8), torch.rand(4, 1, 8, 8)
    found = audit(autoencoder, members, controls, patterns=["half"], methods=["biharmonic"])
    assert calls == [2, 2, 2, 2, 5, 3, 2, 4]
    expected = float((0.01 * members.double().square()).mean())
    assert abs(found.headline["train_loss"] - expected) < 1e-7
