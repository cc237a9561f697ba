"""What a forger can do who knows the tool: change results files, and make every hash anew."""

import json

from lightning_memaudit.report.verify.rows import _again, _cell
from lightning_memaudit.results.cells import is_recovered
from lightning_memaudit.results.chain import CHAIN, SEAL, audit_sha256, by_audit, chained, lines_sha256, sealed
from lightning_memaudit.results.files import plain
from lightning_memaudit.results.hashes import file_sha256


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def change_rows(path, change):
    """Call ``change`` on every row; a row for which it returns False is left out."""
    rows = read_rows(path)
    write_rows(path, [row for row in rows if change(row) is not False])


def change_run(folder, change):
    path = folder.path / "run.json"
    run = json.loads(path.read_text())
    change(run)
    path.write_text(json.dumps(run))


def recount(folder):
    """Make every count, rate and mean in audits.jsonl anew from images.jsonl."""
    path, rows, again = folder.path / "audits.jsonl", read_rows(folder.path / "audits.jsonl"), []
    images = read_rows(folder.path / "images.jsonl")
    for same in by_audit(rows):
        cells = {}
        for image in images:
            if image["audit"] == same[0]["audit"]:
                cells.setdefault((image["group"], image["pattern"], image["method"]), []).append(image)
        for row in same:
            key = row["group"], row["pattern"], row["method"]
            counted = _cell(key, row, cells.get(key, ()))
            for image, recovered in zip(cells.get(key, ()), is_recovered(counted, row["threshold_db"]), strict=True):
                image["recovered"] = bool(recovered)
        counted = _again(same, cells)
        again += [row | plain(counted[row["group"], row["pattern"], row["method"]]) for row in same]
    write_rows(path, again)
    write_rows(folder.path / "images.jsonl", images)


def resign(folder):
    """Make the chain of hashes and the seal of run.json anew."""
    path = folder.path / "audits.jsonl"
    images = dict(lines_sha256(folder.path / "images.jsonl"))
    files = {int(one.stem[6:]): file_sha256(one) for one in (folder.path / "recoveries").glob("audit-*.npz")}
    previous, newest, every = None, [], []
    for rows in by_audit(read_rows(path)):
        number = rows[0]["audit"]
        plain = [{key: value for key, value in row.items() if key != CHAIN} for row in rows]
        newest = chained(plain, previous, images.get(number, ""), files.get(number))
        previous = audit_sha256(newest)
        every += newest
    write_rows(path, every)
    config = folder.path / "run_config.yaml"
    run = json.loads((folder.path / "run.json").read_text())
    digest = file_sha256(config) if config.exists() else None
    (folder.path / "run.json").write_text(json.dumps(sealed(run, newest, digest)))


def strip(folder, version="0.1.0"):
    """Remove chain and seal, as an earlier version would have written it; with None the version stays as it is."""
    change_rows(folder.path / "audits.jsonl", lambda row: row.pop(CHAIN, None) and None)
    change_run(folder, lambda run: run.pop(SEAL, None))
    if version is not None:
        change_run(folder, lambda run: run.update(versions={"lightning_memaudit": version}))
