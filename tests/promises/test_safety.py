"""Nothing that comes from a file, config or name is executed; images stay on the machine unless asked for."""

import ast
import inspect
from pathlib import Path

import lightning
import pytest
import torch
import training_runs
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training_runs import Items, images, trainer_with

import lightning_memaudit
from lightning_memaudit import MemorizationAuditCallback

pytestmark = [
    pytest.mark.usefixtures("reads_here"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*", "ignore:.*exists and is not empty.*"),
]
PACKAGE = Path(lightning_memaudit.__file__).parent
EVIL = '<img src=x onerror=alert(1)>"; rm -rf $HOME `id` [red]{{97*89}}'


class Module(training_runs.Module):
    def __init__(self, note="", path=""):
        super().__init__()
        self.save_hyperparameters()


def fit(module, callbacks, **arguments):
    trainer = trainer_with(*callbacks, max_epochs=1, enable_checkpointing=True, **arguments)
    trainer.fit(module, DataLoader(Items(images()), 2), DataLoader(Items(images(seed=1)), 2))
    return trainer


def audit_callback(**arguments):
    return training_runs.audit_callback(print_table=True, **arguments)


def calls(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_the_package_runs_no_shell_and_no_code_from_data():
    checked = 0
    forbidden = {"eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "yaml.load", "joblib.load"}
    for file in PACKAGE.rglob("*.py"):
        for name, node in calls(file):
            checked += 1
            assert name not in forbidden, f"{file}:{node.lineno}: {name}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("shell", "False") == "False", f"{file}:{node.lineno}: a shell"
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle") in (None, "False"), f"{file}:{node.lineno}: allow_pickle"
            if name in ("torch.load", "load_from_checkpoint"):
                assert "weights_only" in keywords, f"{file}:{node.lineno}: weights_only is not said"
    assert checked > 1000
    for file in PACKAGE.rglob("*.html*"):
        assert "|safe" not in file.read_text().replace(" ", ""), f"{file}: unescaped HTML"


def test_a_checkpoint_with_the_callbacks_state_loads_with_weights_only():
    callback = audit_callback(at_train_loss=[1.0, 1e-9])
    fit(Module(), [callback, ModelCheckpoint("saved", save_last=True)])
    checkpoint = torch.load("saved/last.ckpt", weights_only=True)
    (state,) = (value for key, value in checkpoint["callbacks"].items() if key.startswith("MemorizationAudit"))
    assert state["num_audits"] == 1

    def plain(value):
        if isinstance(value, dict):
            return all(plain(item) for item in value.values())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (bool, int, float, str, type(None))

    assert plain(state)
    again = audit_callback(at_train_loss=[1.0, 1e-9])
    again.load_state_dict(state)
    assert again.state_dict() == state


def test_hostile_names_reach_neither_html_nor_terminal_as_markup(tmp_path, capsys):
    """Hyperparameters, class names and folders may hold anything; what the audit names itself may not."""
    folder = tmp_path / "a `touch hacked`; $(touch hacked) <b>&[red]"
    module = Module(EVIL, folder)
    fit(module, [audit_callback(dirpath=folder)])
    assert not list(Path().rglob("hacked"))
    page = (folder / "report.html").read_text()
    assert "<img src=x" not in page
    assert "8633" not in page, "a template within the template"
    assert "&lt;img src=x" in page, "it is there, escaped"
    assert "<b>&[red]" not in page
    assert EVIL in (folder / "run.json").read_text().replace('\\"', '"')
    capsys.readouterr()


@pytest.mark.parametrize("name", [EVIL, "a b", "a/b", "../up", "", "a[red]", "a\nb", "."])
def test_names_that_would_become_folders_or_metrics_are_plain(name):
    with pytest.raises(ValueError, match="pass letters, digits"):
        MemorizationAuditCallback(name=name)
    with pytest.raises(ValueError, match=r"method name .* letters, digits"):
        MemorizationAuditCallback(methods={name: "paper_blind"})


def test_images_leave_the_machine_only_when_asked():
    class Remote(lightning.pytorch.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.sent = []

        def log_image(self, key, images, **_):
            self.sent.append((key, len(images)))

        def log_metrics(self, metrics, step=None):
            assert all(isinstance(value, int | float | torch.Tensor) for value in metrics.values())

        def log_table(self, key, columns, data, **_):
            assert all(isinstance(value, int | float | str | type(None)) for row in data for value in row)

    assert inspect.signature(MemorizationAuditCallback).parameters["log_images"].default == 0
    for count in (0, 2):
        logger = Remote()
        fit(Module(), [audit_callback(log_images=count)], logger=logger)
        assert bool(logger.sent) == bool(count)
        assert all(number <= count for _, number in logger.sent)
