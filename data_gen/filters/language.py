"""Is it the language that was asked for? Shares of function words and of letters by script; no model."""

from __future__ import annotations

import re
from functools import lru_cache

from data_gen.filters.text import TextView, word_list
from extes_train.errors import ConfigError, did_you_mean

# function words that are frequent in one of these languages
_FUNCTION_WORDS = {
    "en": "the and to of a in is it you that i for on with was my be have not me this are but your what so we do can "
    "just at about it's i'm don't like how they he she would there if when or an been that's all from has him her them",
    "de": "der die und ich nicht das ist zu es du ein in sie mit mir dass auch so wie aber den auf was mich wir war "
    "eine habe für noch dem von sich bei dir hat sind nur wenn schon mein meine haben wird kann er doch als dich oder",
    "fr": "je de la le et les à pas que est tu un une en ne c'est des mon pour qui ce dans plus avec il me ça vous "
    "j'ai sur du ma se on si moi elle bien te comme tout être votre au nous avez suis fait était",
    "es": "de que no la el y en a es un lo me mi se con una por los para te qué las pero como yo su más si ya muy "
    "he esta está cuando tu eso del al ha le sí bien porque puedo tengo ser hay",
    "it": "di che non la il e è un a per in mi una sono ho con ma lo si le come ti da se più mia del al anche della "
    "questo cosa sei quando i molto bene ha gli perché nel io tutto ci suo",
    "pt": "de que não o a e um eu é uma em com para me se por mas os do da meu minha como você isso mais na no as te "
    "está já estou tem muito quando ao seu bem ele ela porque sou tudo ser",
    "nl": "de het een ik en van is dat niet je in te op wat zijn maar die me met voor er heb mijn ook zo dan hij nog "
    "als was naar wel kan of geen om bij u had ben weet toch ze over al",
    "sv": "jag och att det är inte en i du på som för med mig har så av till vi ett men om vad den min var kan de när "
    "dig bara eller sig nu hur från han hon mitt mycket ska",
    "pl": "nie i się w na to że jest z do co jak mi ja ale mnie tak o za po już dla tylko od czy bardzo mam jestem by "
    "było ty kiedy moja mój jeszcze być może",
    "tr": "bir ve bu ben çok de da ne için ama o daha var mi gibi sen her kadar şey değil en bana benim ya nasıl "
    "zaman sonra biraz artık hiç",
}
_LISTS = {language: word_list(text) for language, text in _FUNCTION_WORDS.items()}
_SCRIPTS = {
    "zh": "一-鿿",
    "ja": "぀-ヿ一-鿿",
    "ko": "가-힯",
    "ru": "Ѐ-ӿ",
    "uk": "Ѐ-ӿ",
    "ar": "؀-ۿ",
    "fa": "؀-ۿ",
    "he": "֐-׿",
    "el": "Ͱ-Ͽ",
    "hi": "ऀ-ॿ",
    "th": "฀-๿",
}
_LATIN = "A-Za-zÀ-ɏ"
_LETTER = re.compile(r"[^\W\d_]")
MIN_SCRIPT_SHARE = 0.8  # of the letters
MIN_WORDS = 12  # shorter texts are judged by script alone
MIN_SHARE = 0.15  # function words among all words
MARGIN = 0.03  # by which another language must lead


@lru_cache(maxsize=16)
def _script(language: str) -> re.Pattern[str]:
    return re.compile(f"[{_SCRIPTS.get(language, _LATIN)}]")


def check_language(language: str | None) -> None:
    """Raise ConfigError for a language that cannot be told from others."""
    known = [*_FUNCTION_WORDS, *_SCRIPTS]
    if language is not None and language not in known:
        hint = did_you_mean(language, known)
        raise ConfigError(f"filters.language={language!r}: must be null (any) or one of {', '.join(known)}{hint}")


def foreign(text: str, view: TextView, language: str) -> str | None:
    """Why `text` is not in `language`, or None."""
    if not (text.isascii() and language not in _SCRIPTS):
        letters = len(_LETTER.findall(text))
        share = len(_script(language).findall(text)) / letters if letters else 1.0
        if share < MIN_SCRIPT_SHARE:
            return f"{share:.0%} of the letters are of the script of {language}"
    if language in _SCRIPTS:
        return None
    count = len(view.flat)
    if count < MIN_WORDS:
        return None
    own = _share(view, language)
    if own >= 0.3:
        return None
    best = max(_FUNCTION_WORDS, key=lambda name: _share(view, name))
    if own < _share(view, best) - MARGIN:
        return f"reads like {best}"
    return f"{own:.0%} of the words are function words of {language}" if own < MIN_SHARE and count >= 60 else None


def _share(view: TextView, language: str) -> float:
    return view.count(_LISTS[language]) / max(len(view.flat), 1)
