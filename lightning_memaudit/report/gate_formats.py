"""What a gate found, for machines: JSON, JUnit XML, SARIF 2.1.0. All of it is ASCII, which any console can write."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from lightning_memaudit import __version__
from lightning_memaudit.report.labels import printable
from lightning_memaudit.results.gate import NAMES, Examined

TOOL = "lightning_memaudit"
SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
REPORT = "report.json"
VERDICT, TRUTH = "verdict", "truth"
Document = Mapping[str, Any]


@dataclass(frozen=True)
class GatedRun:
    """One run and what the gate says of it.

    Attributes:
        folder: Of its results, as it was named.
        document: The content of its ``report.json``.
        examined: What the conditions say of it.
        untrue: What ``verify`` finds wrong with it.
        unshown: Why nothing but the results speaks for them, where ``verify`` says so.

    >>> from lightning_memaudit.results.gate import Condition
    >>> numbers = {"outcome": "memorized", "num_memorized": 3}
    >>> examined = Examined(numbers, {Condition.of("num_memorized>0"): True}, strict=False)
    >>> run = GatedRun(PurePath("runs/a/memaudit"), {"verdict": {"headline": "Memorized."}}, examined)
    >>> [(finding.rule, finding.status, finding.text) for finding in run.findings()]
    [('num_memorized>0', 'failed', 'num_memorized>0 holds: it is 3'), ('verdict', 'passed', 'Memorized.')]
    """

    folder: PurePath
    document: Document
    examined: Examined
    untrue: tuple[str, ...] = ()
    unshown: str | None = None

    def findings(self) -> Iterator["Finding"]:
        """What is not true, every condition, then the verdict."""
        for problem in self.untrue:
            yield Finding(TRUTH, TRUTH, "untrue", printable(f"the results are not true: {problem}"))
        if self.unshown is not None:
            yield Finding(TRUTH, TRUTH, "noted", f"the results were taken as they are written: {self.unshown}")
        for condition, holds in self.examined.held.items():
            value, text = self.examined.numbers[condition.name], str(condition)
            if holds is None:
                words = f"{text} cannot be decided: {self.examined.reason(condition)}"
                yield Finding(condition.name, text, "undecided", words)
            else:
                is_ = value if isinstance(value, str) else f"{value:.6g}"
                words = f"{text} {'holds' if holds else 'does not hold'}: it is {is_}"
                yield Finding(condition.name, text, "failed" if holds else "passed", words)
        status = "passed"
        if self.examined.is_inconclusive:
            status = "undecided" if self.examined.strict else "noted"
        yield Finding(VERDICT, VERDICT, status, printable(self.document["verdict"]["headline"]))


@dataclass(frozen=True)
class Finding:
    """One line of a gate.

    Attributes:
        name: What the condition names, or ``verdict``, or ``truth``.
        rule: The condition, or one of these.
        status: ``untrue``, ``failed``, ``undecided``, ``noted`` (which fails nothing) or ``passed``.
        text: In words.

    >>> Finding("verdict", "verdict", "passed", "No memorization found.").status
    'passed'
    """

    name: str
    rule: str
    status: str
    text: str


def json_text(runs: Sequence[GatedRun], exit_code: int) -> str:
    """One object: verdict, numbers and conditions of each run, and the exit code."""
    content = {
        "tool": {"name": TOOL, "version": __version__},
        "exit_code": exit_code,
        "strict": any(run.examined.strict for run in runs),
        "runs": [
            {
                "results": str(run.folder),
                "untrue": list(run.untrue),
                "unshown": run.unshown,
                "report_sha256": run.document.get("report_sha256"),
                "verdict": run.document["verdict"],
                "numbers": dict(run.examined.numbers),
                "conditions": [
                    {"condition": str(one), "value": run.examined.numbers[one.name], "holds": holds}
                    for one, holds in run.examined.held.items()
                ],
            }
            for run in runs
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def junit_text(runs: Sequence[GatedRun], exit_code: int) -> str:
    """A test suite per run: a test case per condition, which fails where it holds, and one for the verdict.

    What cannot be decided, or is not true, is an error; a verdict that is inconclusive where nobody asked for more is
    skipped. Elements and attributes are those that junit-10.xsd and jenkins-junit.xsd, schemas of Jenkins, both have.
    """
    tags = {"failed": "failure", "undecided": "error", "untrue": "error", "noted": "skipped"}
    suites = ElementTree.Element("testsuites", name=TOOL)
    totals = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for run in runs:
        found = list(run.findings())
        counts = {
            "tests": len(found),
            "failures": sum(one.status == "failed" for one in found),
            "errors": sum(tags.get(one.status) == "error" for one in found),
            "skipped": sum(one.status == "noted" for one in found),
        }
        totals = {name: total + counts[name] for name, total in totals.items()}
        name = printable(str(run.folder))
        suite = ElementTree.SubElement(suites, "testsuite", {"name": name, "time": "0", **_texts(counts)})
        for one in found:
            case = ElementTree.SubElement(suite, "testcase", classname=name, name=one.rule, time="0")
            if one.status in tags:
                mark = ElementTree.SubElement(case, tags[one.status])
                mark.text = one.text
                if one.status != "noted":  # what is skipped has no attributes in jenkins-junit.xsd
                    mark.set("type", one.status)
                    mark.set("message", one.text)
            else:
                ElementTree.SubElement(case, "system-out").text = one.text
    del totals["skipped"]  # which the schema has for suites alone
    for name, text in _texts({**totals, "time": 0}).items():
        suites.set(name, text)
    ElementTree.indent(suites, " ")
    content: bytes = ElementTree.tostring(suites, encoding="us-ascii", xml_declaration=True)
    return content.decode("ascii") + "\n"


def _texts(counts: Mapping[str, int]) -> dict[str, str]:
    return {name: str(count) for name, count in counts.items()}


def sarif_text(runs: Sequence[GatedRun], exit_code: int) -> str:
    """A log in SARIF 2.1.0: a result for what is not true, what holds or cannot be decided, and doubtful verdicts."""
    levels = {"failed": "error", "undecided": "error", "untrue": "error", "noted": "warning"}
    found = [(run, one) for run in runs for one in run.findings() if one.status in levels]
    rules = list(dict.fromkeys(one.name for _, one in found))
    results = [
        {
            "ruleId": one.name,
            "ruleIndex": rules.index(one.name),
            "level": levels[one.status],
            "message": {"text": one.text},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": _uri(run)}, "region": {"startLine": 1}}}],
            "partialFingerprints": {"condition/v1": _fingerprint(run, one)},
        }
        for run, one in found
    ]
    driver = {
        "name": TOOL,
        "version": __version__,
        "informationUri": "https://arxiv.org/abs/2310.02897",
        "rules": [{"id": rule, "shortDescription": {"text": _what(rule)}} for rule in rules],
    }
    log = {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "invocations": [{"executionSuccessful": True, "exitCode": exit_code}],
                "results": results,
            }
        ],
    }
    return json.dumps(log, indent=1, allow_nan=False) + "\n"


def _what(rule: str) -> str:
    own = {VERDICT: "The verdict is conclusive", TRUTH: "The results follow from the saved recoveries"}
    return own[rule] if rule in own else f"{rule}: {NAMES[rule].what}"


def _uri(run: GatedRun) -> str:
    """Of the report, relative where the folder was named so, as SARIF wants it."""
    path = run.folder / REPORT
    if path.is_absolute():
        return path.as_uri()
    return quote(path.as_posix())


def _fingerprint(run: GatedRun, finding: Finding) -> str:
    what = finding.text if finding.name == TRUTH else finding.rule
    return hashlib.sha256(f"{run.folder.as_posix()}\n{what}".encode(errors="surrogatepass")).hexdigest()


FORMATS: dict[str, Callable[[Sequence[GatedRun], int], str]] = {
    "json": json_text,
    "junit": junit_text,
    "sarif": sarif_text,
}
"""The formats by name: functions of the runs and of the command's exit code."""
