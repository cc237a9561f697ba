"""A chain of hashes through the audits of a run: dropping, editing, reordering or doubling one shows.

Every row of ``audits.jsonl`` carries the ``chain`` of its audit: the hash of the audit before, of the lines that the
audit wrote to ``images.jsonl``, of the file of its recoveries, and of its own rows with all that. ``run.json`` carries
a ``seal``: the newest audit and its hash, as the end of a chain cannot show that more came after it; the hash of the
config; and its own. No hash is secret: who makes all of them anew is not found out by them.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from lightning_memaudit.results.files import plain
from lightning_memaudit.results.hashes import json_sha256
from lightning_memaudit.results.lines import Row, read_lines

CHAIN, SEAL = "chain", "seal"


def chained(rows: Sequence[Mapping[str, Any]], previous: str | None, images: str, recoveries: str | None) -> list[Row]:
    """The rows of one audit, each with its ``chain``.

    Args:
        rows: All rows of the audit.
        previous: Hash of the audit before; None for the first.
        images: SHA-256 of its lines in ``images.jsonl``.
        recoveries: SHA-256 of the file of its recoveries; None where it saved none.

    >>> first = chained([{"audit": 0}], None, "a", None)
    >>> second = chained([{"audit": 1}], audit_sha256(first), "b", None)
    >>> second[0]["chain"]["previous"] == first[0]["chain"]["audit"] == audit_sha256(first)
    True
    """
    link = {"previous": previous, "images": images, "recoveries": recoveries}
    with_link: list[Row] = [{**plain(row), CHAIN: link} for row in rows]
    return [{**row, CHAIN: {**link, "audit": audit_sha256(with_link)}} for row in with_link]


def audit_sha256(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows of one audit, as in the file, over all of them but that hash itself."""
    return json_sha256([_without_own_hash(row) for row in rows])


def _without_own_hash(row: Row) -> Row:
    link = row.get(CHAIN)
    if not isinstance(link, Mapping):
        return row
    return {**row, CHAIN: {key: value for key, value in link.items() if key != "audit"}}


def by_audit(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each audit, in the order of the file; one that lies in two places comes twice."""
    return [list(same) for _, same in groupby(rows, key=lambda row: row["audit"])]


def lines_sha256(path: Path) -> Iterator[tuple[Any, str]]:
    """Number and SHA-256 of the lines of each audit in a file of lines, in the order of the file."""
    if path.is_file():
        for audit, same in groupby(read_lines(path), key=lambda pair: pair[0]["audit"]):
            digest = hashlib.sha256()
            for _, line in same:
                digest.update(line)
            yield audit, digest.hexdigest()


def complete_sha256(path: Path, audits: Collection[Any]) -> str:
    """SHA-256 of the lines of these audits in a file of lines.

    With all complete audits it is that of the file, without what a kill has left or another audit is about to write.
    """
    digest = hashlib.sha256()
    for row, line in read_lines(path):
        if row["audit"] in audits:
            digest.update(line)
    return digest.hexdigest()


def sealed(run: Mapping[str, Any], newest: Sequence[Row], config: str | None) -> Row:
    """The content of ``run.json`` with its seal.

    Args:
        run: The content; a seal in it is replaced.
        newest: The rows of the newest audit, as in the file; none before the first.
        config: SHA-256 of the run's config; None where there is none.

    >>> sorted(sealed({"created": "now"}, [], None)["seal"])
    ['audit', 'chain', 'config', 'sha256']
    """
    audit, digest = (newest[0]["audit"], audit_sha256(newest)) if newest else (None, None)
    content = {key: value for key, value in run.items() if key != SEAL}
    content[SEAL] = {"audit": audit, "chain": digest, "config": config}
    content[SEAL]["sha256"] = json_sha256(content)
    return content


def seal_holds(run: Mapping[str, Any]) -> bool:
    """Whether the content of ``run.json`` is what it was when it was sealed."""
    seal = run.get(SEAL)
    if not isinstance(seal, Mapping):
        return False
    rest = {key: value for key, value in seal.items() if key != "sha256"}
    return seal.get("sha256") == json_sha256({**run, SEAL: rest})


def broken_links(audits: Sequence[Sequence[Row]], images: Mapping[Any, str]) -> Iterator[str]:
    """What does not fit in a chain, in words.

    Args:
        audits: The rows of each complete audit, in the order of the file.
        images: SHA-256 of the lines of each in ``images.jsonl``.

    >>> rows = chained([{"audit": 0}], None, "a", None)
    >>> list(broken_links([rows], {0: "a"})), list(broken_links([rows], {0: "b"}))
    ([], ['audit 0: its lines in images.jsonl are not those that it wrote'])
    """
    previous: str | None = None
    begun = False
    empty = hashlib.sha256().hexdigest()
    for rows in audits:
        number, link = rows[0]["audit"], rows[0].get(CHAIN)
        if not isinstance(link, Mapping):
            if begun or any(CHAIN in row for row in rows):
                yield f"audit {number} has no chain, though audits of this run have one"
        else:
            begun = True
            if any(row.get(CHAIN) != link for row in rows) or link.get("audit") != audit_sha256(rows):
                yield f"audit {number}: its rows are not those that it wrote"
            if link.get("previous") != previous:
                yield f"audit {number} does not follow the audit that is before it"
            if link.get("images") != images.get(number, empty):
                yield f"audit {number}: its lines in images.jsonl are not those that it wrote"
        previous = audit_sha256(rows)
