"""The lists that ship, against the published tables, and the reading of a user's own."""

from __future__ import annotations

import json

import pytest

from extes_train.dialogue.taxonomy import load_taxonomy, slug
from extes_train.errors import DataError


def test_extes_has_the_published_titles_and_counts(shared):
    published = json.loads((shared / "data/extes/published-tables.json").read_text())
    taxonomy = load_taxonomy("extes")
    assert {s.title: s.published_count for s in taxonomy.scenarios.values()} == published["scenarios"]
    assert {s.title: s.published_count for s in taxonomy.strategies.values()} == published["strategies"]


def test_sizes_ids_and_definitions():
    extes, esconv = load_taxonomy("extes"), load_taxonomy("esconv")
    assert (len(extes.scenarios), len(extes.strategies), len(esconv.strategies)) == (36, 16, 8)
    assert {"lgbtq-identity", "post-traumatic-stress-disorder-ptsd", "academic-stress-or-pressure"} <= set(
        extes.scenarios
    )
    assert {"avoid-judgment-and-criticism", "others"} <= set(extes.strategies)
    assert {"question", "reflection-of-feelings", "self-disclosure"} <= set(esconv.strategies)
    for taxonomy in (extes, esconv):
        assert taxonomy.source
        for entry in [*taxonomy.scenarios.values(), *taxonomy.strategies.values()]:
            assert entry.id == slug(entry.title)
            assert len(entry.definition) > 10, entry.id


def test_any_is_open():
    taxonomy = load_taxonomy("any")
    assert taxonomy.open_scenarios and taxonomy.open_strategies and not taxonomy.strategies


def test_a_users_own_file(tmp_path):
    path = tmp_path / "clinic.yaml"
    path.write_text("scenarios:\n- title: Waiting for Results\nstrategies:\n- {title: Just Listen, id: listen}\n")
    taxonomy = load_taxonomy(str(path))
    assert taxonomy.name == "clinic"
    assert list(taxonomy.scenarios) == ["waiting-for-results"]
    assert taxonomy.strategies["listen"].title == "Just Listen"


@pytest.mark.parametrize(
    "text, message",
    [
        ("scenaros: []", r'scenaros: no such key \(did you mean "scenarios"\?\)'),
        ("scenarios:\n- {title: A B}\n- {title: a-b}", r'scenarios\[1\]: the id "a-b" is taken by "A B"'),
        ("strategies:\n- {definition: x}", r"strategies\[0\]: expected a mapping with a title"),
        ("- a", "expected a mapping"),
        ("a: [", "no YAML"),
    ],
)
def test_faults_of_a_users_file(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_taxonomy(str(path))


def test_unknown_name():
    with pytest.raises(DataError, match=r'did you mean "esconv"'):
        load_taxonomy("escon")
