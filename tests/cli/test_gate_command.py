"""``--fail_if``, ``--strict``, ``--format`` of ``report`` and ``audit``: exit codes, and what machines read."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from run_folder_fixture import make_run_folder
from their_project import FAST

from lightning_memaudit.cli.main import main
from lightning_memaudit.report.verify import Check

pytestmark = pytest.mark.usefixtures("reads_here")

QUIET = ["--no_figures"]
TEXT = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}}
SARIF = {  # what SARIF 2.1.0 requires, section 3 of the standard, and what code scanning needs to show a result
    "type": "object",
    "required": ["version", "runs"],
    "properties": {
        "$schema": {"type": "string", "format": "uri"},
        "version": {"const": "2.1.0"},
        "runs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "required": ["tool", "results"],
                "additionalProperties": False,
                "properties": {
                    "tool": {
                        "required": ["driver"],
                        "properties": {
                            "driver": {
                                "required": ["name"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "version": {"type": "string"},
                                    "informationUri": {"type": "string", "pattern": "^https://"},
                                    "rules": {
                                        "type": "array",
                                        "uniqueItems": True,
                                        "items": {"required": ["id"], "properties": {"shortDescription": TEXT}},
                                    },
                                },
                            }
                        },
                    },
                    "invocations": {
                        "items": {
                            "required": ["executionSuccessful"],
                            "properties": {"exitCode": {"type": "integer"}},
                        }
                    },
                    "results": {
                        "type": "array",
                        "items": {
                            "required": ["ruleId", "message", "locations"],
                            "additionalProperties": False,
                            "properties": {
                                "ruleId": {"type": "string"},
                                "ruleIndex": {"type": "integer", "minimum": 0},
                                "level": {"enum": ["none", "note", "warning", "error"]},
                                "message": TEXT,
                                "locations": {
                                    "minItems": 1,
                                    "items": {
                                        "required": ["physicalLocation"],
                                        "properties": {
                                            "physicalLocation": {
                                                "required": ["artifactLocation"],
                                                "properties": {
                                                    "artifactLocation": {
                                                        "required": ["uri"],
                                                        "properties": {"uri": {"pattern": "^[!-~]+$"}},
                                                    },
                                                    "region": {
                                                        "properties": {"startLine": {"type": "integer", "minimum": 1}}
                                                    },
                                                },
                                            }
                                        },
                                    },
                                },
                                "partialFingerprints": {"additionalProperties": {"type": "string"}},
                            },
                        },
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run that memorized, one whose verdict is inconclusive, in a folder with a name that is no plain text."""
    place = tmp_path_factory.mktemp("runs")
    make_run_folder(place / "memorized", untrained=True, train_losses=(1e-2, 1e-5), num_images=24, num_controls=24)
    make_run_folder(place / "a <b> & \x1b[31mé", train_losses=(1e-5,), num_images=6, num_controls=0)
    return [str(place / "memorized"), str(place / "a <b> & \x1b[31mé")]


@pytest.fixture
def unchecked(monkeypatch, without_page):
    """Verifying and drawing take their time; other tests do that."""
    monkeypatch.setattr("lightning_memaudit.report.verify.verify", lambda _: [])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 0),
        (["--fail_if=memorized_rate<0.05", "--strict"], 0),
        (["--fail_if", "memorized_rate>0.05"], 3),
        (["--fail_if", "outcome==memorized", "--fail_if", "num_memorized<1"], 3),
        (["--fail_if", "extracted>0"], 4),
        (["--fail_if", "extracted>0", "--fail_if", "num_memorized>0"], 3),
        (["--fail_if", "num_memorized>24"], 4),  # of 24 members
    ],
)
def test_exit_codes_of_a_run_that_memorized(runs, capsys, options, code):
    assert main(["report", runs[0], *QUIET, *options]) == code
    assert ("holds: it is" in capsys.readouterr().out) == (code == 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "code"), [([], 0), (["--strict"], 4), (["--fail_if=recovery_rate<0.1", "--strict"], 4)]
)
def test_exit_codes_of_an_inconclusive_run(runs, options, code):
    assert main(["report", runs[1], *QUIET, *options]) == code


@pytest.mark.usefixtures("unchecked")
def test_of_several_runs_the_worst_counts(runs, tmp_path):
    both = ["report", *runs, *QUIET, "--output", str(tmp_path / "both.html")]
    assert main(both) == 0
    assert main([*both, "--strict"]) == 4
    assert main([*both, "--strict", "--fail_if=outcome==memorized"]) == 3


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("report", ["--fail_if", "memorized_rate"], "in quotes"),
        ("report", ["--fail_if", "memorised_rate>0"], "did you mean 'memorized_rate'?"),
        ("report", ["--fail_if"], "expected one argument"),
        ("report", ["--format", "xml"], "invalid choice: 'xml'"),
        ("report", ["--format", "json", "--output", "/dev/null"], "no regular file"),
        ("audit", ["--fail_if", "memorized_rate>5"], "can never hold"),
        ("audit", ["--fail_if"], "expected one argument"),
        ("audit", ["--format", "xml"], "invalid choice: 'xml'"),
        ("audit", ["--output", "a.json"], "give --format"),
        ("audit", ["--fail_if", "extracted>0"], "give --memaudit.extraction"),
        ("audit", ["--fail_if", "memorized_rate>0", "--memaudit.methods=[blind]"], "add biharmonic"),
        ("audit", ["--fail_if", "gain_auroc>0.6", "--memaudit.num_controls=0"], "takes controls"),
        ("audit", ["--strict", "--trainer.fast_dev_run=true"], "fast_dev_run"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(runs, monkeypatch, capsys, command, options, words):
    for name in ("report.write.write_report", "cli.audit.AuditTrainer.predict"):
        monkeypatch.setattr(f"lightning_memaudit.{name}", lambda *_, **__: pytest.fail("it ran"))
    arguments = [runs[0]] if command == "report" else ["--ckpt_path=none", "--trainer.accelerator=cpu"]
    assert main([command, *arguments, *options]) == 2
    out, error = capsys.readouterr()
    assert words in error
    assert len(error.strip().splitlines()) == 1, error
    assert not out


def run_report(runs, *options):
    """By a process of its own, which verifies and draws nothing: what it writes to stdout, whoever writes it."""
    code = (
        "import sys; from lightning_memaudit.cli.main import main\n"
        "import lightning_memaudit.report.verify as verify; verify.verify = lambda folder: []\n"
        "import lightning_memaudit.report.write as write; write.render = lambda *_: '<p>a page</p>'\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "report", *runs, *QUIET, *options], capture_output=True, check=False
    )
    return done.returncode, done.stdout.decode("ascii"), done.stderr.decode()


def test_json_on_stdout_and_all_else_on_stderr(runs):
    code, out, error = run_report(runs, "--format=json", "--fail_if=memorized_rate>0.05", "--fail_if=extracted>0")
    found = json.loads(out)
    assert code == found["exit_code"] == 3
    first, second = found["runs"]
    assert first["conditions"][0] == {
        "condition": "memorized_rate>0.05",
        "value": first["numbers"]["memorized_rate"],
        "holds": True,
    }
    assert first["conditions"][1] == {"condition": "extracted>0", "value": None, "holds": None}
    written = json.loads((Path(first["results"]) / "report.json").read_text())
    assert first["verdict"] == written["verdict"]
    assert first["report_sha256"] == written["report_sha256"]
    assert first["numbers"]["memorized_rate"] == written["memorized_rate"]["rate"]
    assert second["verdict"]["outcome"] == "inconclusive"
    assert "Memorized:" in error
    assert not Path("memaudit-report.html").exists()


JUNIT = {  # elements with their attributes that junit-10.xsd and jenkins-junit.xsd, schemas of Jenkins, both have
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"},
    "testcase": {"name", "time", "classname"},
    **{tag: {"type", "message"} for tag in ("failure", "error")},
    **{tag: set() for tag in ("skipped", "system-out")},
}


def check_junit(text):
    """The structure that readers of JUnit XML agree on, with counts that add up."""
    root = ElementTree.fromstring(text)
    assert root.tag == "testsuites"
    marks = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    for place in root.iter():
        assert not set(place.attrib) - JUNIT[place.tag], place.tag
    for place in (root, *root):
        cases = list(place.iter("testcase"))
        assert int(place.get("tests")) == len(cases)
        for count, tag in marks.items():
            if place is not root or count in place.attrib:
                assert int(place.get(count)) == sum(case.find(tag) is not None for case in cases)
        assert float(place.get("time")) >= 0
    for suite in root:
        assert (suite.tag, bool(suite.get("name"))) == ("testsuite", True)
        for case in suite:
            assert case.tag == "testcase"
            assert case.get("name")
            assert case.get("classname")
            assert {child.tag for child in case} <= {*marks.values(), "system-out"}
    return root


@pytest.mark.slow
def test_junit_has_a_case_for_every_condition(runs):
    code, out, _ = run_report(runs, "--format=junit", "--strict", "--fail_if=num_memorized>0", "--fail_if=extracted>0")
    root = check_junit(out)
    marks = [[(case.get("name"), case[0].tag) for case in suite] for suite in root]
    assert marks[0] == [("num_memorized>0", "failure"), ("extracted>0", "error"), ("verdict", "system-out")]
    assert marks[1][1:] == [("extracted>0", "error"), ("verdict", "error")]
    assert code == 3
    assert "<b> & \\x1b[31mé" in root[1].get("name")
    check_junit(run_report(runs[1:], "--format=junit")[1])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], marks=pytest.mark.slow),
        ["--strict", "--fail_if=num_memorized>0", "--fail_if=extracted>0"],
    ],
)
def test_sarif_has_a_result_for_what_fails(runs, options):
    code, out, _ = run_report(runs, "--format=sarif", *options)
    log = json.loads(out)
    jsonschema.validate(log, SARIF)
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    levels = {(result["ruleId"], result["level"]) for result in run["results"]}
    expected = {("num_memorized", "error"), ("extracted", "error"), ("verdict", "error")}
    assert levels == (expected if options else {("verdict", "warning")})
    assert run["invocations"][0]["exitCode"] == code == (3 if options else 0)
    prints = [result["partialFingerprints"]["condition/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)


@pytest.mark.usefixtures("unchecked")
def test_output_takes_the_format_and_stdout_stays_for_people(runs, capsys):
    assert main(["report", runs[0], *QUIET, "--format=junit", "--output=made/gate.xml"]) == 0
    check_junit(Path("made/gate.xml").read_text())
    assert "Memorized:" in capsys.readouterr().out


@pytest.fixture
def edited(runs, tmp_path):
    """The run that memorized, in whose results someone has written that nothing came back, and a report of that."""
    shutil.copytree(runs[0], tmp_path / "edited")
    path = tmp_path / "edited" / "memaudit" / "images.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    changed = [row | {"recovered": False, "psnr": 10.0, "hidden_psnr": 10.0} for row in rows]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in changed))
    return str(tmp_path / "edited")


@pytest.mark.usefixtures("without_page")
def test_results_that_are_not_true_pass_no_gate(edited, monkeypatch, capsys):
    assert main(["report", edited, *QUIET]) == 0  # which says what they say, and nobody asked for a gate
    assert main(["report", edited, *QUIET, "--fail_if=memorized_rate>0.05"]) == 1
    assert "gate: the results are not true: recoveries score as the results say" in capsys.readouterr().out
    found_before = [Check("recoveries score as the results say", False, "image 0 has another psnr \x1b[31m")]
    monkeypatch.setattr("lightning_memaudit.report.verify.verify", lambda _: found_before)
    for name in ("json", "junit", "sarif"):
        assert main(["report", edited, *QUIET, f"--format={name}", f"--output=gate.{name}"]) == 1
    found = json.loads(Path("gate.json").read_text())
    assert found["exit_code"] == 1
    assert any("recoveries score" in problem for problem in found["runs"][0]["untrue"])
    assert check_junit(Path("gate.junit").read_text()).find("testsuite/testcase/error") is not None
    log = json.loads(Path("gate.sarif").read_text())
    jsonschema.validate(log, SARIF)
    assert {one["level"] for one in log["runs"][0]["results"] if one["ruleId"] == "truth"} == {"error"}


@pytest.mark.parametrize("passed", [True, None])
def test_a_gate_says_that_no_recovery_speaks_for_the_results(runs, monkeypatch, capsys, passed):
    scored = [Check("recoveries score as the results say", passed, "0 recoveries scored again")]
    monkeypatch.setattr("lightning_memaudit.report.verify.verify", lambda _: scored)
    for name in ("json", "junit", "sarif"):
        asked = ["--fail_if=num_memorized<1", f"--format={name}", f"--output=gate.{name}"]
        assert main(["report", runs[0], *QUIET, *asked]) == 0, "that was not asked for, but it is said"
    said = "gate: the results were taken as they are written: no recovery was saved that could show these to be true"
    assert (said in capsys.readouterr().out) == (passed is None)
    assert bool(json.loads(Path("gate.json").read_text())["runs"][0]["unshown"]) == (passed is None)
    skipped = check_junit(Path("gate.junit").read_text()).findall("testsuite/testcase[@name='truth']/skipped")
    assert len(skipped) == (passed is None)
    log = json.loads(Path("gate.sarif").read_text())
    jsonschema.validate(log, SARIF)
    assert [(one["ruleId"], one["level"]) for one in log["runs"][0]["results"]] == (
        [] if passed else [("truth", "warning")]
    )


def test_what_an_earlier_gate_said_does_not_stay_where_this_one_fails(runs, monkeypatch):
    Path("gate.json").write_text('{"exit_code": 0}')
    monkeypatch.setattr("lightning_memaudit.report.write.write_report", lambda *_, **__: 1 / 0)
    assert main(["report", runs[0], *QUIET, "--format=json", "--output=gate.json"]) == 1
    assert not Path("gate.json").exists()


@pytest.mark.usefixtures("without_page")
def test_audit_as_a_gate(project, capsys):
    base = ["audit", f"--model={project}.Autoencoder", f"--data={project}.Data", *FAST, "--ckpt_path=none"]
    assert main([*base, "--strict", "--fail_if=recovery_rate>0.5"]) == 4
    assert main([*base, "--fail_if=recovery_rate<=1"]) == 3
    capsys.readouterr()
    assert main([*base, "--fail_if=recovery_rate<=1", "--format=json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["results"].endswith("audits/as-made")
    assert found["runs"][0]["verdict"]["outcome"] == "inconclusive"
