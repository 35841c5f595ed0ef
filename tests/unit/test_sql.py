"""The SQL files: every query and every column says what it is for, migrations are numbered, names and uses agree."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mes.store import migrate
from mes.store.connection import SQL, queries

ROOT = Path(__file__).resolve().parents[2]
QUERIES = "\n".join((SQL / name).read_text(encoding="utf-8") for name in ("queries.sql", "doctor.sql"))
VIEWS = migrate.views()

# --- named queries -----------------------------------------------------------------------------------------------------


def named() -> list[tuple[str, list[str]]]:
    """(name, lines) of each query of the file, in its order, repeated names too."""
    found: list[tuple[str, list[str]]] = []
    for line in QUERIES.splitlines():
        if match := re.fullmatch(r"-- name: (\w+)", line):
            found.append((match[1], []))
        elif found:
            found[-1][1].append(line)
    return found


def test_every_query_is_found_by_its_name_and_no_name_stands_twice() -> None:
    assert [name for name, n in Counter(name for name, _ in named()).items() if n > 1] == []
    assert set(queries()) == {name for name, _ in named()}
    assert QUERIES.count("-- name:") == len(named())


@pytest.mark.parametrize(("name", "lines"), named(), ids=[name for name, _ in named()])
def test_every_query_says_what_it_is_for(name: str, lines: list[str]) -> None:
    assert re.fullmatch(r"-- \S.{9,}", lines[0])
    statement = "\n".join(line for line in lines if not line.startswith("--")).strip()
    assert statement
    assert not statement.endswith(";")
    assert statement in queries()[name]


def test_every_query_is_used_and_every_use_has_a_query() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "mes").rglob("*.py")))
    assert [name for name, _ in named() if f'"{name}"' not in code] == []
    assert set(re.findall(r'queries\(\)\["(\w+)"\]', code)) <= set(queries())


def test_placeholders_of_a_query_are_all_named_or_all_in_order() -> None:
    for name, text in queries().items():
        kinds = {bool(match[1]) for match in re.finditer(r"%(\(\w+\))?s", text)}
        assert len(kinds) <= 1, name


# --- views -------------------------------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """SQL without comments, and with the insides of strings blanked, so that words and brackets can be counted."""
    text = re.sub(r"--[^\n]*", "", text)
    return re.sub(r"'(?:[^']|'')*'", "''", text)


def columns(select: str) -> list[str]:
    """Names of the columns of a SELECT: what stands behind AS, or the last word, between the commas outside of brackets."""
    depth, words, names = 0, "", []
    for token in re.findall(r"\w+|[^\w\s]", select[select.index("SELECT") + len("SELECT") :]):
        depth += (token == "(") - (token == ")")
        if depth == 0 and token.upper() == "FROM":
            break
        if depth == 0 and token == ",":
            names.append(words.split()[-1])
            words = ""
        else:
            words += f" {token}"
    return [*names, words.split()[-1]]


def top_select(text: str) -> str:
    """The SELECT outside of all brackets: behind the queries of WITH."""
    depth = 0
    for match in re.finditer(r"[()]|\bSELECT\b", text):
        if match[0] == "SELECT" and depth == 0:
            return text[match.start() :]
        depth += (match[0] == "(") - (match[0] == ")")
    raise AssertionError("no SELECT")


def created(text: str) -> dict[str, list[str]]:
    """Columns of each view that a file makes."""
    found = {}
    for match in re.finditer(r"CREATE VIEW report\.(\w+) AS\b(.*?);", plain(text), re.DOTALL):
        found[match[1]] = columns(top_select(match[2]))
    return found


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_every_view_and_every_column_has_a_comment(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    views = created(text)
    comments = dict(re.findall(r"COMMENT ON (?:VIEW|FUNCTION|COLUMN) report\.([\w.]+)(?:\([^)]*\))? IS '((?:[^']|'')+)';", text))
    functions = re.findall(r"CREATE FUNCTION report\.(\w+)", plain(text))
    assert len(views) == len(re.findall(r"\bCREATE (?:OR REPLACE )?(?:MATERIALIZED )?VIEW\b", plain(text)))
    assert views or functions
    wanted = [*views, *functions, *(f"{view}.{column}" for view, names in views.items() for column in names)]
    assert sorted(comments) == sorted(wanted)
    assert len(comments) == text.count("COMMENT ON")
    assert [name for name, comment in comments.items() if len(comment) < 8] == []


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_a_view_file_is_named_after_what_it_makes(path: Path) -> None:
    match = re.fullmatch(r"(\d{3})_(\w+)", path.stem)
    assert match
    text = plain(path.read_text(encoding="utf-8"))
    assert match[2] in re.findall(r"CREATE (?:VIEW|FUNCTION) report\.(\w+)", text)


def test_view_files_have_an_order_of_their_own() -> None:
    assert len({path.name[:3] for path in VIEWS}) == len(VIEWS)


def test_no_name_is_made_twice() -> None:
    made = [name for path in VIEWS for name in created(path.read_text(encoding="utf-8"))]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_no_view_of_a_stretch_of_time_reads_events(path: Path) -> None:
    """Days are summed once: a dashboard over a year must not touch the facts."""
    text = plain(path.read_text(encoding="utf-8"))
    if any(re.match(r"(daily|station|shift|hourly)_", name) for name in created(text)):
        assert "kpi." in text
        assert "cell_event" not in text


def test_the_parser_of_views_finds_what_is_missing() -> None:
    text = (
        "CREATE VIEW report.x AS WITH y AS (SELECT a, b FROM c) SELECT y.a, sum(f(b, ',')) AS \n n, z.d::text AS d FROM y JOIN z USING (a);"
    )
    assert created(text) == {"x": ["a", "n", "d"]}


# --- migrations --------------------------------------------------------------------------------------------------------


def test_migrations_are_numbered_from_one_without_gaps() -> None:
    files = sorted(path.name for path in (SQL / "migrations").iterdir())
    found = migrate.migrations()
    assert [number for number, _, _ in found] == list(range(1, len(files) + 1))
    assert [f"{number:04d}_{name}.sql" for number, name, _ in found] == files
    assert len({name for _, name, _ in found}) == len(found)
    assert all(text == (SQL / "migrations" / f"{number:04d}_{name}.sql").read_text(encoding="utf-8") for number, name, text in found)


@pytest.mark.parametrize("names", [["0002_a.sql"], ["0001_a.sql", "0003_b.sql"], ["0001_a.sql", "0001_b.sql"], ["0000_a.sql"]])
def test_a_gap_or_a_repeat_in_the_numbers_is_found(names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "migrations").mkdir()
    for name in names:
        (tmp_path / "migrations" / name).write_text("SELECT 1;", encoding="utf-8")
    monkeypatch.setattr(migrate, "SQL", tmp_path)
    with pytest.raises(AssertionError, match="numbered from 0001 without gaps"):
        migrate.migrations()


def test_migrations_leave_transactions_and_the_public_schema_alone() -> None:
    for number, name, text in migrate.migrations():
        statements = [statement.strip() for statement in plain(re.sub(r"\$\$.*?\$\$", "", text, flags=re.DOTALL)).split(";")]
        for statement in filter(None, statements):
            assert not re.match(r"(BEGIN|COMMIT|ROLLBACK|VACUUM)\b", statement), f"{number:04d}_{name}: {statement[:40]}"
            assert not re.search(r"\breport\.", statement), f"{number:04d}_{name}: views are made anew by their files"
