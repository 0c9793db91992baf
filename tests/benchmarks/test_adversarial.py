from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks import veto
from benchmarks.adversarial import (
    ADVERSARIAL,
    CONTROL,
    CONTROLS,
    PER_KIND,
    AdversarialPair,
    adversarial_pairs,
    rewordings,
)
from benchmarks.adversarial import run as run_adversarial
from benchmarks.veto import edits_of, proposals_of, row
from benchmarks.veto_edits import EDITS, REWORDINGS
from benchmarks.veto_table import adversarial_table, veto_table
from policies.matching.veto import veto_reasons
from service.embedder import Embedder, Vector
from training.scenes.reading import read_caption

CHANGED_ATTRIBUTES = {
    "colour swap": {"a.colour", "b.colour"},
    "colour": {"a.colour"},
    "place": {"layout"},
    "negation": {"a.texture"},
    "texture": {"a.texture"},
    "shape": {"a.shape"},
    "size": {"a.size"},
}


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture(scope="module")
def pairs(embedder: Embedder) -> list[AdversarialPair]:
    return adversarial_pairs(embedder.embed_many, wordings=1)


@pytest.fixture(scope="module")
def control(embedder: Embedder) -> list[AdversarialPair]:
    return rewordings(embedder.embed_many)


def test_there_are_as_many_as_asked_for_of_every_kind(
    pairs: list[AdversarialPair], control: list[AdversarialPair]
) -> None:
    assert len(pairs) >= 300
    assert {kind: sum(pair.kind == kind for pair in pairs) for kind in ADVERSARIAL} == dict.fromkeys(
        ADVERSARIAL, PER_KIND
    )
    assert [pair.kind for pair in control] == [CONTROL] * CONTROLS


def test_what_a_pair_says_is_read_back_and_differs_in_the_change_alone(pairs: list[AdversarialPair]) -> None:
    for pair in pairs:
        old, new = read_caption(pair.source.text), read_caption(pair.target.text)
        assert old is not None
        assert new is not None
        before, after = old.scene.attributes(), new.scene.attributes()
        differ = {name for name in old.mentioned & new.mentioned if before[name] != after[name]}
        assert differ >= CHANGED_ATTRIBUTES.get(pair.kind, set()), pair
        if pair.kind in CHANGED_ATTRIBUTES:
            assert differ == CHANGED_ATTRIBUTES[pair.kind], pair
        assert differ or pair.kind == "count", pair


def test_controls_say_the_same_in_other_words(control: list[AdversarialPair]) -> None:
    for pair in control:
        assert pair.source.scene == pair.target.scene
        assert pair.source.mentioned == pair.target.mentioned
        assert pair.source.text != pair.target.text


def test_the_same_seed_gives_the_same_pairs_and_more_wordings_closer_ones(embedder: Embedder) -> None:
    def few(seed: int, wordings: int) -> list[AdversarialPair]:
        return adversarial_pairs(embedder.embed_many, seed, per_kind=2, wordings=wordings)

    def mean(made: Sequence[AdversarialPair]) -> float:
        return float(np.mean([pair.similarity for pair in made]))

    texts = [(pair.source.text, pair.target.text) for pair in few(1, 2)]
    assert texts == [(pair.source.text, pair.target.text) for pair in few(1, 2)]
    assert texts != [(pair.source.text, pair.target.text) for pair in few(2, 2)]
    assert mean(few(1, 8)) > mean(few(1, 1))


def test_the_veto_sees_the_kinds_that_words_of_place_and_colour_decide(pairs: list[AdversarialPair]) -> None:
    for kind, reason in (
        ("colour swap", "colours"), ("colour", "colours"), ("left-right swap", "relations"),
        ("above-below swap", "relations"), ("place", "sides"), ("negation", "negation"),
    ):  # fmt: skip
        of_kind = [pair for pair in pairs if pair.kind == kind]
        caught = [reason in veto_reasons(pair.source.text, pair.target.text) for pair in of_kind]
        assert np.mean(caught) > 0.85, kind


def test_few_rewordings_trip_the_veto(control: list[AdversarialPair]) -> None:
    tripped = [pair for pair in control if veto_reasons(pair.source.text, pair.target.text)]
    assert len(tripped) < 0.1 * len(control), [(pair.source.text, pair.target.text) for pair in tripped]


def test_the_report_has_a_row_for_every_kind_and_a_table() -> None:
    report = run_adversarial(quick=True, quiet=True)
    assert [row["kind"] for row in report["rows"]] == [*ADVERSARIAL, "all adversarial", CONTROL]
    assert 0 < report["headline"]["caught"] < 1
    table = "\n".join(adversarial_table(report))
    assert all(f"| {kind} |" in table for kind in ADVERSARIAL)


PROMPTS = (
    "A red cube on top of a blue box",
    "two wooden chairs and three metal chairs",
    "a dog to the left of a white fence",
    "a photo of a harp without any strings",
    'a shop sign that says "open"',
    "the sun setting behind the Eiffel Tower",
)


def test_every_edit_and_every_rewording_applies_somewhere_and_changes_the_text() -> None:
    prompts = [*PROMPTS, "a large bowl next to a red cup."]
    for made in (edits_of(prompts, EDITS), edits_of(prompts, REWORDINGS)):
        assert all(made.values()), made
        assert all(old != new for pairs in made.values() for old, new in pairs)


def test_edits_are_caught_and_rewordings_are_not() -> None:
    edited, reworded = edits_of(PROMPTS, EDITS), edits_of(PROMPTS, REWORDINGS)
    assert all(veto_reasons(*pair) for pairs in edited.values() for pair in pairs), edited
    assert not any(veto_reasons(*pair) for pairs in reworded.values() for pair in pairs), reworded


def test_a_proposal_is_the_nearest_earlier_text_above_the_floor() -> None:
    vectors: dict[str, Vector] = {
        "a": np.array([1, 0], np.float32),
        "b": np.array([0, 1], np.float32),
        "c": np.array([0.8, 0.6], np.float32),
    }
    assert proposals_of(["a", "b", "c"], vectors) == [("c", "a")]
    figures = row("x", [("c", "a"), ("c", "b")], vectors)
    assert figures["above"]["0.75"] == 0.5
    assert figures["vetoed"]["value"] == 0


def test_without_data_the_report_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_DATA", raising=False)
    report = veto.run(quick=True, quiet=True)
    assert "HEADSTART_DATA" in report["skipped"]
    assert "HEADSTART_DATA" in veto_table(report)[0]


def test_data_in_part_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("data")
    (folder / "prompts").mkdir()
    (folder / veto.PARTI).write_text("Prompt\tCategory\tChallenge\tNote\na cat\tAnimals\tBasic\t\n")
    monkeypatch.setenv("HEADSTART_DATA", str(folder))
    assert veto.run(quick=True, quiet=True)["skipped"].endswith("lacks prompts/diffusiondb_first_3000.csv")


def test_a_small_set_of_prompts_makes_a_whole_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    (folder / "prompts").mkdir()
    lines = [f"{prompt}\tAnimals\tBasic\t" for prompt in PROMPTS]
    (folder / veto.PARTI).write_text("\n".join(["Prompt\tCategory\tChallenge\tNote", *lines]) + "\n")
    log = ["a red fox in snow", "a red fox in the snow", "a blue fox in the snow", "two red foxes in the snow"]
    (folder / veto.DIFFUSIONDB).write_text("idx,prompt\n" + "".join(f"{i},{text}\n" for i, text in enumerate(log)))
    monkeypatch.setenv("HEADSTART_DATA", str(folder))
    monkeypatch.setattr(veto, "EMBEDDINGS", folder / "embeddings")
    report = veto.run(quick=True, quiet=True)
    assert report["prompts"] == {"parti": len(PROMPTS), "diffusiondb": len(log)}
    assert report["headline"]["caught"] == 1
    assert report["diffusiondb"][0]["kinds"]["colours"] > 0
    assert any("swap two colours" in line for line in veto_table(report))
