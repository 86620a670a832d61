"""Personal data by patterns: e-mail, telephone, cards, accounts, addresses. Presidio on request."""

from __future__ import annotations

import functools
import re
from typing import Any

from extes_train.errors import ConfigError

_HELPLINE = re.compile(r"^(?:\+?1?[ -]?800|0800|0808|1800|116)\b")
_PATTERNS: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]{2,}"),
    "handle": re.compile(r"(?:^|\s)@[A-Za-z]\w{2,}"),
    "iban": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b"),
    "card": re.compile(r"\b(?:\d[ -]?){13,19}\b"),
    "social_security": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    "ip": re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    "phone": re.compile(r"(?<![\w.])\+?\(?\d[\d ()/-]{7,}\d\b"),
    "address": re.compile(
        r"\b\d{1,5}[a-z]? (?:[A-Z][\w']+ ){1,3}(?:Street|St|Road|Rd|Avenue|Ave|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|"
        r"Crescent|Terrace|Close|Way)\b\.?(?! of)"
    ),
}
PRESIDIO = (
    *("CreditCard", "Crypto", "Iban", "Ip", "Phone", "Url"),
    *("UsSsn", "UsItin", "UsPassport", "UsLicense", "MedicalLicense", "Nhs", "UkNino"),
)  # recognizers of presidio-analyzer, English
PRESIDIO_SCORE = 0.44  # a bare number reaches it through a checksum or a word beside it: a passport's 0.1 + 0.35
_DIGIT = re.compile(r"\d")
_LEAST_DIGITS = {"iban": 10, "card": 13, "social_security": 9, "ip": 4, "phone": 9, "address": 1}


def personal_data(text: str, method: str) -> str | None:
    """What personal data `text` seems to hold, as `kind`, or None. `method`: patterns | presidio | none."""
    if method == "none":
        return None
    digits = _digits(text)
    for kind, pattern in _PATTERNS.items():
        if digits < _LEAST_DIGITS[kind] if kind in _LEAST_DIGITS else "@" not in text:
            continue
        for match in pattern.finditer(text):
            if _counts(kind, match.group(0)):
                return kind
    return _by_presidio(text) if method == "presidio" else None


def _digits(text: str) -> int:
    if not text.isascii():
        return len(_DIGIT.findall(text))
    return len(text) - len(text.encode().translate(None, b"0123456789"))


def _counts(kind: str, found: str) -> bool:
    if kind == "card":
        return _luhn([int(c) for c in found if c.isdigit()])
    if kind == "phone":
        digits = sum(c.isdigit() for c in found)
        years = re.fullmatch(r"(?:19|20)\d\d ?[-/] ?(?:19|20)\d\d", found.strip())
        return 9 <= digits <= 15 and not years and not _HELPLINE.match(found.strip())
    return True


def _luhn(digits: list[int]) -> bool:
    total = sum(d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits)))
    return len(digits) >= 13 and total % 10 == 0


def check_method(method: str) -> None:
    """Raise ConfigError where Presidio is asked for and not installed."""
    if method == "presidio":
        _analyzer()


@functools.cache
def _analyzer() -> Any:
    """Presidio's recognizers of patterns, checksums and context words, on spaCy's tokenizer alone: no model of names is
    loaded or downloaded. Its e-mail recognizer asks the network for a list of domains; our own pattern finds those."""
    try:
        import spacy
        from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
        from presidio_analyzer import predefined_recognizers as known
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
    except ImportError as error:
        raise ConfigError(
            "generate.filters.pii=presidio: presidio-analyzer is not installed; install the extra `pii` or use patterns"
        ) from error
    recognizers = [getattr(known, f"{name}Recognizer")(supported_language="en") for name in PRESIDIO]
    engine: Any = SpacyNlpEngine()
    engine.nlp = {"en": spacy.blank("en")}  # as Presidio's documentation hands over a pipeline of one's own
    engine.nlp["en"].add_pipe(_lower_case_lemmas())
    return AnalyzerEngine(RecognizerRegistry(recognizers, supported_languages=["en"]), engine)


def _lower_case_lemmas() -> str:
    """A pipe that gives each word itself as lemma: context words ("passport", "licence") are found by lemma."""
    from spacy.language import Language

    @Language.component("extes_lower_case_lemmas")
    def set_lemmas(document: Any) -> Any:
        for token in document:
            token.lemma_ = token.lower_
        return document

    return "extes_lower_case_lemmas"


def _by_presidio(text: str) -> str | None:
    """The kind of Presidio's surest finding. Names of people and places are none: dialogues have invented ones."""
    found = _analyzer().analyze(text=text, language="en", score_threshold=PRESIDIO_SCORE)
    return str(max(found, key=lambda result: result.score).entity_type).lower() if found else None
