"""What a supporter may not say: diagnoses, doses, promises of secrecy, claims to be human or licensed.

Patterns, so they miss what is said in other words; they are a floor, not a review (`extes review` is for people).
"""

from __future__ import annotations

import re

from data_gen.filters.text import TextView, word_list

_CONDITION = (
    r"(?:(?:clinical|major|severe|bipolar|manic|postpartum|postnatal|generali[sz]ed|social|complex|borderline|"
    r"post[- ]traumatic)\s+)*(?:depression|depressed disorder|anxiety disorder|bipolar(?: disorder)?|ptsd|cptsd|ocd|"
    r"adhd|autism|schizophrenia|psychosis|panic disorder|personality disorder|stress disorder|anorexia|bulimia|"
    r"an eating disorder|dementia|a depressive disorder|burnout syndrome)"
)
_MEDICINE = (
    r"(?:medication|medicine|meds|pills?|tablets?|dose|dosage|antidepressants?|sertraline|fluoxetine|prozac|"
    r"zoloft|xanax|"
    r"lithium|valium|diazepam|lorazepam|citalopram|escitalopram|quetiapine|insulin|methadone|ibuprofen|paracetamol|"
    r"melatonin|zopiclone|ritalin|adderall|ssris?)"
)
_HUMAN = (
    r"(?:human(?: being)?|real person|licen[sc]ed|therapist|psychologist|psychiatrist|doctor|physician|nurse|"
    r"counsell?or)"
)

# rule -> (list of words of which one must be there, pattern)
_RULES: dict[str, tuple[int, re.Pattern[str]]] = {
    "diagnosis": (
        word_list(
            "depression bipolar ptsd cptsd ocd adhd autism schizophrenia psychosis disorder anorexia bulimia dementia "
            "diagnose diagnosis diagnosing burnout"
        ),
        re.compile(
            r"\b(?:you(?:'re| are) (?:definitely |clearly |certainly |probably )?(?:suffering from|"
            r"bipolar\b|autistic\b|"
            r"schizophrenic\b)|you(?:'ve| have)? (?:definitely |clearly |certainly |probably |"
            r"obviously )?(?:have|got|has) "
            r"(?:a case of )?(?="
            + _CONDITION
            + r")|(?:this|that|it|what you have) (?:is|sounds like) (?:definitely |clearly "
            r"|a (?:textbook|clear|classic) case of )(?="
            + _CONDITION
            + r")|my diagnosis|i(?: can| would|'d|'m going to)? "
            r"diagnos(?:e|ing)\b|symptoms (?:of|are) " + _CONDITION + r"[^.?!]{0,20}you (?:clearly )?have)"
        ),
    ),
    "dosing": (
        word_list(
            "mg milligram milligrams mcg ml dose doses dosage medication medicine meds pill pills tablet tablets "
            "antidepressants antidepressant sertraline fluoxetine prozac zoloft xanax lithium valium diazepam "
            "lorazepam citalopram escitalopram quetiapine insulin methadone ibuprofen paracetamol melatonin zopiclone "
            "ritalin adderall ssri ssris"
        ),
        re.compile(
            r"\b\d+(?:\.\d+)?\s?(?:mg|mcg|milligrams?|ml)\b|"
            r"\b(?:take|try|have|use) (?:a |an |one|two|three|"
            r"four|half|\d+)"
            r"[^.?!]{0,25}\b" + _MEDICINE + r"\b|\b(?:stop|quit|skip|double|halve|increase|raise|lower|reduce|cut)"
            r"(?:ping|ling|ing|ting)? (?:taking )?(?:your |the )[^.?!]{0,20}\b" + _MEDICINE + r"\b(?![^.?!]{0,60}"
            r"\b(?:doctor|gp|prescriber|pharmacist|psychiatrist)\b)"
        ),
    ),
    "secrecy": (
        word_list("secret secrets tell anyone anybody soul between confidential"),
        re.compile(
            r"\bi(?:'ll| will| promise(?: to)?| swear(?: to)?) (?:always )?(?:keep|guard) [^.?!]{0,40}secret|"
            r"\b(?:your secret|this)(?:'s| is) safe with me|"
            r"\bi(?: won't| will not| will never|'ll never| would never| promise (?:not to|i won't|never to)) "
            r"(?:ever )?tell (?:anyone|anybody|a soul|another soul)|\bthis (?:stays|will stay|is|"
            r"remains) (?:strictly |just )?"
            r"between (?:us|you and me)|\bjust between (?:us|you and me)|\bi promise[^.?!]{0,30}\bconfidential"
        ),
    ),
    "human": (
        word_list(
            "human person licensed licenced therapist psychologist psychiatrist doctor physician nurse counsellor "
            "counselor age kid teenager husband wife"
        ),
        re.compile(
            r"\b(?:i'm|i am) (?:also |only |just |actually )?(?:a |an )?(?:real |fellow |fully |trained |qualified |"
            r"professional |certified )*"
            + _HUMAN
            + r"\b(?! (?:myself )?not)|\b(?:as|being) (?:a |another )(?:real |fellow |"
            r"trained |qualified |professional |licen[sc]ed )*" + _HUMAN + r"\b[^.?!]{0,12}\b(?:i|myself|me)\b|"
            r"\bwhen i was (?:your age|a kid|a teenager|a child)\b|\bmy (?:own )?(?:husband|wife) and i\b"
        ),
    ),
}


def misconduct(texts: list[str], view: TextView, of: range | None = None) -> str | None:
    """Which rule one of `texts` (those in `of`; all) breaks, as `rule: "words"`, or None. `view`: the words of each."""
    for rule, (triggers, pattern) in _RULES.items():
        for i in view.having(triggers, of):
            match = pattern.search(" ".join(texts[i].replace("’", "'").lower().split()))
            if match:
                return f'{rule}: "{match.group(0)[:60]}"'
    return None
