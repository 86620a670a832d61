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
_PATTERN: re.Pattern[str] = re.compile(
    r"\bsuicid|\bunalive|\boff myself\b|\breasons? to (?:go on |keep )living\b|"
    r"\bkill(?:ing|ed)? (?:myself|yourself|himself|herself|themsel(?:f|ves))\b"
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

# the same in other registers, with rarer words as triggers so that most texts are never searched
_INFORMAL_TRIGGERS = word_list(
    "wanna dont didnt kms gone born miss letter letters note notes pills tablets driving crash swerve swerving cutting "
    "throat neck worth bottle train bus truck lorry tram gun baby slit slitting wrists dying disappear rope sucide "
    "suicde sui su1cide suic1de longer without wake point carry farewell"
)
_INFORMAL = re.compile(
    r"\b(?:wanna|gonna) (?:die\b|be dead|kill myself|end it\b|kms)|\bkms\b"
    r"|\bsucid|\bsuicde|\bsu[1i]c[1i]d|\bsui thoughts"
    r"|\b(?:dont|didnt|don't|do not) (?:want to|wanna) (?:be alive|live\b(?! (?:in|at|with|there|here|like|"
    r"alone|on|near|under|by|off|out))|exist|wake up\b|be here any ?(?:more|longer))"
    r"|\bnever wake up\b|\bwish i(?:'d| had| was| were)? never (?:been )?born\b"
    r"|\bbetter (?:off )?(?:without me\b|if i (?:was|were) (?:gone|dead|not here))"
    r"|\b(?:nobody|no one) would (?:even )?(?:miss me|notice) if i\b"
    r"|\b(?:suicide|goodbye|farewell) (?:letters?|notes?)\b"
    r"|\b(?:pills|tablets) (?:lined up|saved up|counted out)|\b(?:saving|saved|hoarding|counting) (?:up )?(?:my |the )?"
    r"(?:pills|tablets)\b|\b(?:took|swallow(?:ed)?|take) (?:a|the) (?:whole|entire|full) bottle of\b"
    r"|\b(?:driving|drive|crash|swerv(?:e|ing)) (?:my |the )?car (?:into|off)\b"
    r"|\b(?:been|started|back to) cutting (?:again|at night)\b|\bslit(?:ting)? (?:my|his|her) (?:wrists?|throat)\b"
    r"|\bhands? (?:around|on|round) my (?:throat|neck)\b"
    r"|\blife (?:isn't|is not|isnt|is no longer|is not even) worth\b|\bnot worth living\b"
    r"|\bno (?:point|reason) (?:in|to) (?:go(?:ing)? on|carry(?:ing)? on)\b(?! (?:with|about|as))"
    r"|\b(?:jump|jumping|step|stepping|throw myself|throwing myself|walk|walking) (?:in front of|under) "
    r"(?:a|the|that) (?:train|bus|truck|lorry|tram)\b"
    r"|\bgun\b[^.?!]{0,40}\b(?:on|to) (?:myself|my head)\b|\b(?:hurt|harm|shake|smother) (?:my|the|our) baby\b"
    r"|\bfeel(?:s|ing)? like dying\b|\b(?:waste away|lie down) and die\b|\bbought (?:a|some) rope\b"
    r"|\bdisappear (?:for good|and never (?:come back|return|be found))"
)

_LISTS = ((_TRIGGERS, _PATTERN), (_INFORMAL_TRIGGERS, _INFORMAL))


def crisis(texts: list[str], view: TextView) -> str | None:
    """The words in one of `texts` that speak of an acute crisis, or None. `view` has the words of each."""
    for triggers, pattern in _LISTS:
        for i in view.having(triggers):
            if found := _search(pattern, texts[i]):
                return found
    return None


def crisis_in(text: str) -> str | None:
    """`crisis` of one short text that no view was made of."""
    found = (_search(pattern, text) for triggers, pattern in _LISTS if any_on_list(text, triggers))
    return next((words for words in found if words), None)


def _search(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(" ".join(text.replace("’", "'").lower().split()))
    return match.group(0)[:60] if match else None
