"""Acute crisis in other registers is set aside too; everyday words are not."""

from __future__ import annotations

import pytest

from data_gen.filters.crisis import crisis, crisis_in
from data_gen.filters.text import TextView


@pytest.mark.parametrize(
    "text",
    [
        "im gonna kms",
        "I wanna die",
        "i dont want to live anymore",
        "I want to off myself.",
        "Sometimes I think everyone would be better off if I was gone",
        "I've written goodbye letters to my kids.",
        "I have the pills lined up on the counter.",
        "I keep thinking about driving my car into a tree.",
        "I started cutting again last week.",
        "He put his hands around my throat.",
        "I don’t see a reason to go on living.",
        "There's no point in going on.",
        "I took a whole bottle of Tylenol",
        "I wish I could go to sleep and never wake up.",
        "I was thinking of stepping in front of the train.",
        "life isn't worth living",
        "I don't want to be here any longer",
        "I'm afraid I'll hurt my baby.",
        "i tried to commit sucide once",
        "Nobody would miss me if I were gone.",
        "I just feel like dying",
        "no one would even notice if i disappeared",
    ],
)
def test_crisis_in_other_words(text: str) -> None:
    before = "It has been a hard week for all of us."
    assert crisis([before, text], TextView([before, text])) and crisis_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "This deadline is killing me and I could kill for a coffee.",
        "There is no point in going on about it.",
        "I don't want to live here any longer than I must.",
        "I missed the train and nobody would miss me at that meeting.",
        "She wrote a goodbye card when I left the company.",
        "I want my life back, and my baby sleeps at last.",
        "I took the pills the doctor gave me for my cold.",
        "I was drinking a bottle of wine every evening.",
        "That nobody would notice if I stopped going to the choir.",
    ],
)
def test_everyday_words_are_no_crisis(text: str) -> None:
    assert crisis([text], TextView([text])) is None
