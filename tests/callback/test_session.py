"""A session is opened, used and closed by whoever drives it; one that cannot be opened is closed again."""

import pytest
import torch
from training_runs import Module, images, trainer_with

from lightning_memaudit.callback.dataset_images import ImageChoice
from lightning_memaudit.callback.model import ModelCall
from lightning_memaudit.callback.outputs import Outputs
from lightning_memaudit.callback.session import Session
from lightning_memaudit.measurement.plan import Plan
from lightning_memaudit.measurement.processes import Processes
from lightning_memaudit.results.rows import Occasion

pytestmark = pytest.mark.usefixtures("reads_here")


def opened(how=None):
    which = ImageChoice(members=images(4), controls=images(3, seed=1))
    what, where = Plan.of(["half"], ["known_mask"]), Outputs(print_table=False, figures=False)
    return Session.open(trainer_with(), Module(), which, how or ModelCall(), what, where)


def test_from_opening_to_the_report():
    session = opened()
    assert session.groups == []
    session.inspect()
    assert [(group.name, len(group.images)) for group in session.groups] == [("members", 4), ("controls", 3)]
    random_state = torch.get_rng_state()
    report = session.audit(Occasion(0, "by hand", 2, 5, "2024-01-01T00:00:00+00:00"))
    session.publish(report)
    session.finish()
    assert torch.equal(torch.get_rng_state(), random_state)
    assert session.audited(0, 5)
    assert not session.audited(1, 5)
    assert (session.folder.path / "report.html").is_file()
    assert report.occasion.weights_sha256 is not None
    assert session.folder.run()["members"]["num_images"] == 4
    session.close()


def test_what_cannot_be_opened_gives_its_processes_back(monkeypatch):
    closed = []
    monkeypatch.setattr(Processes, "disconnect", lambda self: closed.append(self))
    with pytest.raises(ValueError, match="has no such method"):
        opened(ModelCall("nonsense"))
    assert len(closed) == 1
