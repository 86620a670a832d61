"""Language of acute crisis: suicide, self-harm, danger to life. Such records are quarantined for people to read.

The patterns are wide on purpose: a careful dialogue about a crisis is set aside too, never lost (quarantine.jsonl).
"""

from __future__ import annotations

import re

from data_gen.filters.text import TextView, any_on_list, word_list

_TRIGGERS = word_list(
    "suicide suicidal suicidality suicides unalive kill killing killed strangle choke life die dead all exist existing "
    "disappear wake live alive living anymore more off self-harm self harm harming hurting cut cutting burn burning "
    "burned overdose overdosed overdosing pills tablets hang hanging hanged hung shoot shot drown jump jumped jumping "
    "goodbye goodbyes longer tomorrow"
)
_PATTERN = re.compile(
    r"\bsuicid|\bunalive|\bkill(?:ing|ed)? (?:myself|yourself|himself|herself|themsel(?:f|ves))\b"
    r"|\b(?:he|she|they)(?:'ll|'d| will| would| wants? to| tried to|(?:'s| is|'re| are) going to| threaten(?:s|ed) to) "
    r"(?:kill|strangle|choke) (?:me|us)\b"
    r"|\b(?:end|ending|take|taking|took) (?:it all\b|(?:my|your|his|her|their) (?:own )?life\b"
    r"(?! (?:seriously|back|into|in)))"
    r"|\b(?:want(?:ed|s)?|wish(?:ed)?|ready|rather|hope(?:d)?)(?: that)?(?: i| to| he'd| she'd| i'd)*(?: just| only)? "
    r"(?:die\b|be dead|were dead|was dead|not (?:be alive|wake up|exist)|stop existing|disappear forever)"
    r"|\b(?:don't|do not|didn't|never|no longer) want(?:ed)? to (?:be alive|live(?: any ?more| any longer)?\b"
    r"(?! (?:in|at|with|there|here|like|alone|on|near|under|by|off|out))|wake up\b|exist|be here any ?more)"
    r"|\bbetter off (?:dead|without me)\b|\bno (?:reason|point) (?:to|in) (?:live|living|be alive|being alive)\b"
    r"|\b(?:self[- ]harm|cut(?:ting)? (?:myself|my (?:arm|arms|wrist|wrists|leg|legs|thighs?))|hurt(?:ing)? myself|"
    r"harm(?:ing)? myself|burn(?:ing|ed)? myself on purpose)\b"
    r"|\boverdos|\b(?:all|bottle of|handful of|too many) (?:the |my |his |her )?(?:pills|tablets)\b"
    r"|\b(?:hang(?:ing|ed)?|hung|shoot|shot|drown) (?:myself|himself|herself)\b"
    r"|\bjump(?:ing|ed)? off (?:the|a) bridge\b"
    r"|\b(?:say|saying|said) (?:my )?final goodbyes?\b|\bwon't be (?:around|here) (?:much longer|tomorrow)\b"
)


def crisis(texts: list[str], view: TextView) -> str | None:
    """The words in one of `texts` that speak of an acute crisis, or None. `view` has the words of each."""
    for i in view.having(_TRIGGERS):
        if found := _search(texts[i]):
            return found
    return None


def crisis_in(text: str) -> str | None:
    """`crisis` of one short text that no view was made of."""
    return _search(text) if any_on_list(text, _TRIGGERS) else None


def _search(text: str) -> str | None:
    match = _PATTERN.search(" ".join(text.replace("’", "'").lower().split()))
    return match.group(0)[:60] if match else None
