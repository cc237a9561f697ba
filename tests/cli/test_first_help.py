"""Help in levels, other names of commands, configs by name, narrow terminals, and consoles that lack our signs."""

import io
import re
import subprocess
import sys

import pytest
import yaml

from lightning_memaudit.cli import bench, first_help
from lightning_memaudit.cli.configs import names
from lightning_memaudit.cli.fit import parse
from lightning_memaudit.cli.main import COMMANDS, OTHER_NAMES, main
from lightning_memaudit.cli.plain import plain, plain_signs

SCREEN = 24


def output(capsys, *arguments):
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", first_help.FIRST)
def test_the_first_help_is_one_screen_of_true_options(capsys, command):
    text = output(capsys, command, "--help")
    lines = text.splitlines()
    assert len(lines) <= SCREEN, "80 columns, 24 lines"
    assert max(map(len, lines)) < 80
    assert "--help -v" in text


def test_every_option_of_the_first_help_exists(capsys):
    for command in first_help.FIRST:
        whole = output(capsys, command, "--help", "-v")
        assert len(whole.splitlines()) > 500
        for option in first_help.FIRST[command]:
            assert re.search(rf"{re.escape(option)}[ ,\n]", whole), option  # a comma: Python 3.13, of several names
        lines = whole.splitlines()
        ours = next(number for number, line in enumerate(lines) if "--memaudit" in line)
        lightnings = next(number for number, line in enumerate(lines) if "--trainer" in line)
        assert ours < 35 < lightnings, "what this package adds comes first: a gate's options, those of the audit"
        capsys.readouterr()


def test_the_help_of_audit_names_the_run_folder_and_the_gate(capsys):
    text = output(capsys, "audit", "--help")
    assert "audit [RUN] [--option VALUE ...]" in text
    assert "--fail_if" in text
    assert "--strict" in text


def test_every_nonlinearity_is_named_in_the_list_of_configs(capsys):
    text = " ".join(output(capsys, "configs").split())
    for name in ("ELU", "GELU", "Softplus", "Tanh"):
        assert f"Overlay: {name} as the nonlinearity" in text


@pytest.mark.parametrize("arguments", [[], ["fit", "-h"], ["audit", "-h"], ["bench"], ["configs"], ["completion"]])
def test_narrow_terminals_cut_nothing(capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "200")
    wide = output(capsys, *arguments)
    monkeypatch.setenv("COLUMNS", "60")
    narrow = output(capsys, *arguments)
    assert "".join(narrow.split()) == "".join(wide.split())
    long = [line for line in narrow.splitlines() if len(line) > 60 and " " in line.strip()]
    assert not [line for line in long if "~/" not in line and "configs" not in line]


def test_bench_lists_its_measurements(capsys):
    assert set(bench.MEASURED) == set(bench.BENCHMARKS)
    for arguments in (["bench"], ["bench", "--help"]):
        text = output(capsys, *arguments)
        assert all(f"  {name} " in text for name in bench.BENCHMARKS)


def test_other_names_of_commands(capsys):
    assert set(OTHER_NAMES.values()) <= set(COMMANDS)
    assert not set(OTHER_NAMES) & set(COMMANDS)
    assert main(["train"]) == 2
    assert "did you mean 'fit'?" in capsys.readouterr().err


def test_configs_by_name_are_those_files(capsys):
    by_name = parse(["--config", str(names()["paper/unet-svhn"]), "--trainer.accelerator=cpu"], run=False).config
    for given in (["--config", "paper/unet-svhn"], ["--config=paper/unet-svhn"], ["-c", "paper/unet-svhn"]):
        printed = yaml.safe_load(output(capsys, "fit", *given, "--print_config"))
        assert printed["data"]["class_path"] == by_name["data"]["class_path"]
    printed = yaml.safe_load(output(capsys, "fit", "--config=quickstart", "--config=wandb", "--print_config"))
    assert printed["trainer"]["logger"]["init_args"]["offline"] is True


def test_a_file_wins_over_a_config_of_its_name(capsys, tmp_path):
    text = names()["quickstart"].read_text(encoding="utf-8").replace("num_train: 50", "num_train: 7")
    (tmp_path / "quickstart").write_text(text, encoding="utf-8")
    printed = yaml.safe_load(output(capsys, "fit", "--config", "quickstart", "--print_config"))
    assert printed["data"]["init_args"]["num_train"] == 7


@pytest.mark.parametrize(
    ("given", "meant"),
    [("quikstart", "quickstart"), ("configs/wandb.yaml", "wandb"), ("elu", "paper/nonlinearity/elu"), ("no.yaml", "")],
)
def test_what_is_no_config_is_said_and_not_guessed(capsys, tmp_path, given, meant):
    assert main(["fit", "--config", given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --config {given}: there is no such file or config")
    assert (f"did you mean {meant!r}?" in error) == bool(meant)
    assert not list(tmp_path.iterdir())


def test_configs_lists_and_prints(capsys):
    text = output(capsys, "configs")
    assert all(f"  {name} " in text or f"  {name}\n" in text for name in names())
    assert yaml.safe_load(output(capsys, "configs", "quickstart"))["memaudit"]["at_epochs"] == [0]
    assert main(["configs", "nothing-like-it"]) == 2


def test_every_config_says_what_it_is_for(capsys):
    from lightning_memaudit.cli.configs import summary

    for name, path in names().items():
        assert 20 < len(summary(path)) < 200, name


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_any_console_gets_every_sign(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with plain_signs():
        print("✓ verified: PSNR ≥ 30 dB … 猫")
    assert stream.errors == "strict", "as it was"
    stream.flush()
    written = stream.buffer.getvalue().decode(encoding)
    expected = "✓ verified: PSNR ≥ 30 dB … 猫" if encoding == "utf-8" else "ok verified: PSNR >= 30 dB"
    assert written.startswith(expected)


def test_the_command_line_writes_plain_signs(monkeypatch):
    """Whatever a command prints; ``verify`` begins its lines with a tick."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("lightning_memaudit.cli.report.run_verify", lambda arguments: print("✓ rows: → 3") or 0)
    assert main(["verify", "runs"]) == 0
    stream.flush()
    assert stream.buffer.getvalue() == b"ok rows: -> 3\n"


def test_plain_signs_are_ascii():
    for sign in "✓✗…±≥≤→●◕◐○│─━╸╺┏┛┃█▓⠋":
        assert plain(sign).isascii()
        assert "\\" not in plain(sign)


def test_completion_knows_commands_options_and_values(capsys):
    pytest.importorskip("shtab")
    script = output(capsys, "completion", "bash")
    assert script.startswith("#"), "a shell runs all that is printed"
    for word in (
        "--fail_if",
        "--memaudit.at_train_loss",
        "--allow_types",
        "--no_pictures",
        "paper/nonlinearity/elu",
        "dashboard",
    ):
        assert word in script
    line = "lightning-memaudit audit --fail"
    complete = (
        f"COMP_WORDS=({line}); COMP_CWORD=2; COMP_LINE={line!r}; _shtab_lightning_memaudit; echo ${{COMPREPLY[@]}}"
    )
    # By its input: a command line of Linux takes no argument as long as the script may be.
    done = subprocess.run(["bash"], input=f"{script}\n{complete}\n", capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("--fail_if", "")
    assert len(script) < 500_000, "not all that all classes of all libraries take"


def test_completion_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr("lightning_memaudit.cli.completion.find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 2
    assert "lightning-memaudit[completion]" in capsys.readouterr().err
    assert main(["completion", "bush"]) == 2
    assert "did you mean 'bash'?" in capsys.readouterr().err
