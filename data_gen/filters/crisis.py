"""Language of acute crisis: suicide, self-harm, danger to life. Such records are quarantined for people to read.

The patterns are wide on purpose: a careful dialogue about a crisis is set aside too, never lost (quarantine.jsonl).
"""

from __future__ import annotations

import re

from data_gen.filters.text import TextView, word_list, words_of

_NOT_A_PLACE = r"(?! (?:in|at|with|there|here|like|alone|on|near|under|by|off|out))"  # "want to live in Leeds"
_SELF = r"(?:myself|himself|herself)"

# (words of which one must be there, pattern): each pattern is searched only in texts with one of its words
_RULES: tuple[tuple[str, str], ...] = (
    ("suicide suicidal suicidality suicides suicidally sucide suicde su1cide suic1de sucidal", r"\bsu[i1]?c[i1]?d"),
    ("unalive unaliving unalived kms", r"\bunaliv|\bkms\b"),
    ("sui", r"\bsui thoughts"),
    ("off", r"\boff myself\b|\bbetter off (?:dead|without me)\b|\bjump(?:ing|ed)? off (?:the|a) bridge\b"),
    ("without", r"\bbetter without me\b"),
    ("gone dead not", r"\bbetter (?:off )?if i (?:was|were) (?:gone|dead|not here)"),
    ("living live alive", r"\breasons? to (?:go on |keep )living\b|\bno (?:reason|point) (?:to|in) (?:live|living|"
     r"be alive|being alive)\b"),
    ("kill killing killed", r"\bkill(?:ing|ed)? (?:myself|yourself|himself|herself|themsel(?:f|ves))\b"),
    ("kill strangle choke", r"\b(?:he|she|they)(?:'ll|'d| will| would| wants? to| tried to|(?:'s| is|'re| are) going "
     r"to| threaten(?:s|ed) to) (?:kill|strangle|choke) (?:me|us)\b"),
    ("all", r"\b(?:end|ending|take|taking|took) it all\b"),
    ("all bottle handful many", r"\b(?:all|bottle of|handful of|too many) (?:the |my |his |her )?(?:pills|tablets)\b"),
    ("life", r"\b(?:end|ending|take|taking|took) (?:my|your|his|her|their) (?:own )?life\b(?! (?:seriously|back|into|"
     r"in))|\blife (?:isn't|is not|isnt|is no longer|is not even) worth\b"),
    ("worth", r"\bnot worth living\b"),
    ("die dead alive wake exist existing disappear", r"\b(?:want(?:ed|s)?|wish(?:ed)?|ready|rather|hope(?:d)?)(?: "
     r"that)?(?: i| to| he'd| she'd| i'd)*(?: just| only)? (?:die\b|be dead|were dead|was dead|not "
     r"(?:be alive|wake up|exist)|stop existing|disappear forever)"),
    ("alive live wake exist more anymore longer", r"\b(?:(?:don't|do not|didn't|dont|didnt|never|no longer) "
     r"(?:want(?:ed)? to|wanna)) (?:be alive|live(?: any ?more| any longer)?\b" + _NOT_A_PLACE + r"|wake up\b|exist|"
     r"be here any ?(?:more|longer))"),
    ("wake", r"\bnever wake up\b"),
    ("wanna gonna", r"\b(?:wanna|gonna) (?:die\b|be dead|kill myself|end it\b|kms)"),
    ("born", r"\bwish i(?:'d| had| was| were)? never (?:been )?born\b"),
    ("miss", r"\b(?:nobody|no one) would (?:even )?miss me if i\b"),
    ("notice", r"\b(?:nobody|no one) would (?:even )?notice if i (?:just )?(?:died|disappeared|vanished|wasn't|weren't|"
     r"(?:was|were) (?:gone|dead|not))\b"),
    ("dying", r"\bfeel(?:s|ing)? like dying\b"),
    ("die", r"\b(?:waste away|lie down) and die\b"),
    ("disappear", r"\bdisappear (?:for good|and never (?:come back|return|be found))"),
    ("self-harm self harm harming harms", r"\bself[- ]harm|\bharm(?:ing)? myself\b"),
    ("cut cutting", r"\bcut(?:ting)? (?:myself|my (?:arm|arms|wrist|wrists|leg|legs|thighs?))\b"
     r"|\b(?:been|started|back to) cutting (?:again|at night)\b"),
    ("hurt hurting", r"\bhurt(?:ing)? myself\b"),
    ("burn burning burned", r"\bburn(?:ing|ed)? myself on purpose\b"),
    ("slit slitting", r"\bslit(?:ting)? (?:my|his|her) (?:wrists?|throat)\b"),
    ("throat neck", r"\bhands? (?:around|on|round) my (?:throat|neck)\b"),
    ("overdose overdosed overdoses overdosing", r"\boverdos"),
    ("pills tablets", r"\b(?:pills|tablets) (?:lined up|saved up|counted out)|\b(?:saving|saved|hoarding|counting) (?:"
     r"up )?(?:my |the )?(?:pills|tablets)\b"),
    ("bottle", r"\b(?:took|swallow(?:ed)?|take) (?:a|the) (?:whole|entire|full) bottle of\b"),
    ("hang hanging hanged hung shoot shot drown", r"\b(?:hang(?:ing|ed)?|hung|shoot|shot|drown) " + _SELF + r"\b"),
    ("gun", r"\bgun\b[^.?!]{0,40}\b(?:on|to) (?:myself|my head)\b"),
    ("rope", r"\bbought (?:a|some) rope\b"),
    ("goodbye goodbyes", r"\b(?:say|saying|said) (?:my )?final goodbyes?\b"),
    ("letter letters note notes", r"\b(?:suicide|goodbye|farewell) (?:letters?|notes?)\b"),
    ("longer tomorrow", r"\bwon't be (?:around|here) (?:much longer|tomorrow)\b"),
    ("point reason", r"\bno (?:point|reason) (?:in|to) (?:go(?:ing)? on|carry(?:ing)? on)\b(?! (?:with|about|as))"),
    ("driving drive crash swerve swerving", r"\b(?:driving|drive|crash|swerv(?:e|ing)) (?:my |the )?car "
     r"(?:into|off)\b"),
    ("train bus truck lorry tram", r"\b(?:jump|jumping|step|stepping|throw myself|throwing myself|walk|walking) "
     r"(?:in front of|under) (?:a|the|that) (?:train|bus|truck|lorry|tram)\b"),
    ("baby", r"\b(?:hurt|harm|shake|smother) (?:my|the|our) baby\b"),
)  # fmt: skip


def _by_word() -> dict[str, list[re.Pattern[str]]]:
    table: dict[str, list[re.Pattern[str]]] = {}
    for triggers, pattern in _RULES:
        compiled = re.compile(pattern)
        for word in triggers.split():
            table.setdefault(word, []).append(compiled)
    return table


_PATTERNS = _by_word()
_TRIGGERS = word_list(" ".join(_PATTERNS))


def crisis(texts: list[str], view: TextView) -> str | None:
    """The words in one of `texts` that speak of an acute crisis, or None. `view` has the words of each."""
    for i in view.having(_TRIGGERS):
        if found := _search(texts[i], view.words[i]):
            return found
    return None


def crisis_in(text: str) -> str | None:
    """`crisis` of one short text that no view was made of."""
    return _search(text, words_of([text])[0])


def _search(text: str, words: list[str]) -> str | None:
    triggers = _PATTERNS.keys() & words
    if not triggers:
        return None
    plain = " ".join(text.replace("’", "'").lower().split())
    for word in sorted(triggers):
        for pattern in _PATTERNS[word]:
            if match := pattern.search(plain):
                return match.group(0)[:60]
    return None
