"""The text around dialogue turns: a tokenizer's Jinja chat template, or our plain one where it has none.

A template is known by its skeleton: what stands before, inside and after each turn's content, found by rendering
sentinels in place of the contents. The skeleton depends on the order of speakers alone, so one serves many dialogues,
and nothing in a dialogue's text can be read as template text.

    plain:  <bos> "Seeker:" TEXT "\\n" "Supporter:" TEXT <eos> ...   each piece tokenised by itself
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from extes_train.dialogue.files import digest_of
from extes_train.errors import ConfigError, LayoutError, ModelError

ROLES = {"seeker": "user", "supporter": "assistant"}
PLACEHOLDER = "Hello."  # what the seeker says under tokens.opening=placeholder
# what templates may ask for, fixed, so that training today and inference tomorrow read the same text
FIXED_DATE = datetime.date(2024, 7, 26)
FIXED_ARGUMENTS = {"date_string": FIXED_DATE.strftime("%d %b %Y")}
_DATE_CODES = ("%d", "%b", "%B", "%Y", "%y", "%m", "%A", "%a", "%H", "%M", "%S", "%j")
# transformers gives templates a clock of this name; a macro of the same name stops it
FIXED_CLOCK = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('{code}', '{FIXED_DATE.strftime(code)}')" for code in _DATE_CODES)
    + " }}{% endmacro %}"
)


class Spoken(Protocol):
    """A turn, as far as templates are concerned."""

    @property
    def speaker(self) -> str: ...

    @property
    def text(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Break:
    """The end of a piece: the next text is tokenised by itself."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The end of the turn before; inside a lead."""


@dataclass(frozen=True, slots=True)
class SystemText:
    """The system prompt's place."""


Atom = int | str | Break | Boundary | SystemText  # int: id of a special token; str: template text


@dataclass(frozen=True, slots=True)
class TurnSkeleton:
    """One turn: `lead` stands before it and ends the prefix of a response. `before` and `after` are text around the
    content that a response writes too, `end` the special tokens of its end-of-turn. A seeker turn has only a lead."""

    lead: tuple[Atom, ...]
    before: str = ""
    after: str = ""
    end: tuple[int, ...] = ()


@dataclass
class Template:
    """A tokenizer's template with fixed arguments, a system prompt and the rule for a supporter who speaks first.

    `rewrites` says why there is no prefix property (each prefix of a dialogue renders as a prefix of its rendering);
    None where it holds.
    """

    tokenizer: Any
    source: str | None  # Jinja text; None: plain
    name: str  # for messages
    system: str | None = None
    opening: str = "as_is"
    rewrites: str | None = None
    seeker_first: bool = False  # refuses dialogues that the supporter opens
    _skeletons: dict[tuple[str, ...], tuple[TurnSkeleton, ...]] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        return self.source is None

    def digest_parts(self) -> dict[str, Any]:
        """What fixes the text of a rendered dialogue."""
        return {
            "template": self.source,
            "system": self.system,
            "opening": self.opening,
            "placeholder": PLACEHOLDER,
            "arguments": {**FIXED_ARGUMENTS, "date": FIXED_DATE.isoformat()},
        }

    def digest(self) -> str:
        return digest_of(self.digest_parts())

    def skeleton(self, speakers: Sequence[str]) -> tuple[TurnSkeleton, ...]:
        """The skeletons of the turns of a dialogue in which `speakers` speak in this order.

        Raises LayoutError where the template refuses the order or has no prefix property.
        """
        if self.plain:
            return tuple(_plain_turns(self.tokenizer, speakers, self.system))
        if self.rewrites:
            raise LayoutError(f"{self.name}: {self.rewrites}")
        key = _longer(tuple(speakers))
        if key not in self._skeletons:
            self._skeletons[key] = render_skeleton(self, key)
        return self._skeletons[key][: len(speakers)]

    def render(self, speakers: Sequence[str], contents: Sequence[str], header: bool, system: str | None) -> str:
        """The template's text for these turns, with the assistant header after them if `header`."""
        import jinja2

        messages = [{"role": "system", "content": system}] if system is not None else []
        messages += [{"role": ROLES[who], "content": text} for who, text in zip(speakers, contents)]
        if not messages:
            return ""  # transformers refuses to render nothing
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.source,
                    tokenize=False,
                    add_generation_prompt=header,
                    **FIXED_ARGUMENTS,
                )
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise LayoutError(
                f"{self.name} refuses a dialogue of {_describe(speakers)}"
                f"{' with a system prompt' if system is not None else ''}: {error}. "
                "model.chat_template=plain uses our own text format"
            ) from error


def load_template(
    tokenizer: Any, chat_template: str | None = None, system: str | None = None, opening: str = "as_is"
) -> Template:
    """The template of `tokenizer`, or the one named: `chat_template` is a Jinja file, or "plain" for ours.

    Raises ModelError where no end-of-turn can be found, ConfigError for a missing file.
    """
    if chat_template not in (None, "plain") and not Path(str(chat_template)).is_file():
        raise ConfigError(f'model.chat_template={chat_template!r}: no such file; a Jinja file, or "plain" for our own')
    if chat_template == "plain":
        source = None
    elif chat_template is not None:
        source = Path(chat_template).read_text(encoding="utf-8")
    else:
        source = tokenizer.chat_template
        source = source.get("default") if isinstance(source, dict) else source
    if source is not None and "strftime_now" in source:
        source = FIXED_CLOCK + source
    where = str(chat_template or getattr(tokenizer, "name_or_path", "") or "tokenizer")
    if source is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{where}: the tokenizer has no eos token, which ends every response in the plain format")
        return Template(tokenizer, None, "the plain template", system, opening)
    template = Template(tokenizer, source, f"the chat template of {where}", system, opening)
    template.seeker_first = _refuses(template, ("supporter", "seeker"))
    try:
        template.skeleton(("seeker", "supporter") * 3)
    except LayoutError as error:
        if not isinstance(error, RewritingTemplate):
            raise
        template.rewrites = str(error)
    return template


class RewritingTemplate(LayoutError):
    """The template has no prefix property."""


def open_dialogue(template: Template, turns: Sequence[Spoken]) -> tuple[list[Spoken], int]:
    """(turns as the template takes them, how many were put before (1) or taken away (-n) at the start).

    Under tokens.opening=drop_target a template that tolerates the supporter speaking first keeps the turn as context.
    """
    turns = list(turns)
    if not turns or turns[0].speaker != "supporter":
        return turns, 0
    if template.opening == "placeholder":
        return [Line("seeker", PLACEHOLDER), *turns], 1
    if not template.seeker_first:
        return turns, 0
    if template.opening == "drop_target":
        leading = next((i for i, turn in enumerate(turns) if turn.speaker == "seeker"), len(turns))
        return turns[leading:], -leading
    raise LayoutError(
        f"{template.name} demands that the seeker speaks first, and a dialogue opens with the supporter: "
        "tokens.opening=placeholder puts a fixed seeker turn before it, tokens.opening=drop_target leaves the turn out"
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A bare turn."""

    speaker: str
    text: str


def _plain_turns(tokenizer: Any, speakers: Sequence[str], system: str | None) -> Iterator[TurnSkeleton]:
    pending: list[Atom] = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    pending += [Break(), SystemText(), "\n", Break()] if system is not None else [Break()]
    for speaker in speakers:
        if speaker == "seeker":
            yield TurnSkeleton((*pending, "Seeker:", Break()))
            pending = [Break(), "\n", Break(), Boundary()]
        else:
            yield TurnSkeleton((*pending, "Supporter:", Break()), end=(int(tokenizer.eos_token_id),))
            pending = [Boundary(), Break()]


def _longer(speakers: tuple[str, ...]) -> tuple[str, ...]:
    """An alternating dialogue of the next power of two turns, so that few skeletons serve all lengths."""
    if any(a == b for a, b in itertools.pairwise(speakers)) or not speakers:
        return speakers
    other = {"seeker": "supporter", "supporter": "seeker"}
    size = max(8, 1 << (len(speakers) - 1).bit_length())
    return tuple(speakers[0] if i % 2 == 0 else other[speakers[0]] for i in range(size))


def sentinel(number: int) -> str:
    """What stands for the text of a turn while its surroundings are found."""
    return f"Turn{number:05d}End"


_SYSTEM = "SystemTextHere"


def render_skeleton(template: Template, speakers: tuple[str, ...]) -> tuple[TurnSkeleton, ...]:
    """The skeletons of turns spoken by `speakers`, read from the template's renderings of sentinels."""
    contents = [sentinel(i) for i in range(len(speakers))]
    system = _SYSTEM if template.system is not None else None
    full = template.render(speakers, contents, False, system)
    places = _places(template, full, contents)
    if system is not None and full.count(_SYSTEM) != 1:
        raise LayoutError(f"{template.name} takes no system prompt; leave tokens.system out")
    specials = special_pattern(template.tokenizer)
    turns: list[TurnSkeleton] = []
    cursor, boundary = 0, 0  # characters of `full`: end of what is taken, end of the turn before
    for i, (speaker, place) in enumerate(zip(speakers, places)):
        content_stop = place + len(contents[i])
        if speaker == "seeker":
            lead = _atoms(template, full, cursor, boundary, place, specials)
            turns.append(TurnSkeleton(lead))
            cursor = boundary = content_stop
            continue
        shown = template.render(speakers[: i + 1], contents[: i + 1], False, system)
        stop = _prefix_stop(template, speakers, contents, system, full, shown, place, i)
        if i and speakers[i - 1] == "seeker":
            bare = template.render(speakers[:i], contents[:i], False, system)
            boundary = len(bare) if full.startswith(bare) and len(bare) <= stop else boundary
        lead = _atoms(template, full, cursor, boundary, stop, specials)
        after, end, cursor = _end_of_turn(template, full, shown, content_stop, specials)
        boundary = cursor
        turns.append(TurnSkeleton(lead, full[stop:place], after, end))
    return tuple(turns)


def _places(template: Template, full: str, contents: Sequence[str]) -> list[int]:
    """Where each content stands in `full`: each once, in order."""
    places = [full.find(content) for content in contents]
    if any(place < 0 or full.count(c) != 1 for place, c in zip(places, contents)) or places != sorted(places):
        raise RewritingTemplate(f"{template.name} does not show every turn's text once and in order")
    return places


def _prefix_stop(
    template: Template,
    speakers: tuple[str, ...],
    contents: list[str],
    system: str | None,
    full: str,
    shown: str,
    place: int,
    i: int,
) -> int:
    """Length of the text that a response to the turns before `i` continues: those turns and the assistant header.

    The header is the template's own; where add_generation_prompt gives none, it is what stands before a sentinel.
    White space between header and content belongs to the response.
    """
    if shown[: shown.find(contents[i])] != full[:place]:
        raise RewritingTemplate(f"{template.name} rewrites earlier turns when later ones follow")
    prompted = template.render(speakers[:i], contents[:i], True, system) or full[:place]
    if not full.startswith(prompted) or len(prompted) > place:
        raise RewritingTemplate(f"{template.name}: its generation prompt is not what stands before a response")
    return len(prompted) if not full[len(prompted) : place].strip() else place


def _end_of_turn(
    template: Template, full: str, shown: str, start: int, specials: re.Pattern[str]
) -> tuple[str, tuple[int, ...], int]:
    """(text between content and end-of-turn, the end-of-turn's ids, where it stops in `full`)."""
    found = specials.search(full, start)
    if found is None or full[start : found.start()].strip() or not shown.startswith(full[: found.end()].rstrip()):
        raise ModelError(
            f"{template.name} ends a supporter's turn with no special token of the tokenizer, so a model cannot learn "
            "where to stop; model.chat_template=plain uses our own text format"
        )
    token = found.group().strip()
    return full[start : found.start()], (int(template.tokenizer.convert_tokens_to_ids(token)),), found.end()


def special_pattern(tokenizer: Any) -> re.Pattern[str]:
    """Matches the special tokens of `tokenizer` in template text, with the white space that they swallow."""
    tokens = [t for t in tokenizer.added_tokens_decoder.values() if t.special and t.content]
    parts = [
        (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
        for token in sorted(tokens, key=lambda t: -len(t.content))
    ]
    return re.compile("|".join(parts) or r"(?!)")


def _atoms(
    template: Template, full: str, start: int, boundary: int, stop: int, specials: re.Pattern[str]
) -> tuple[Atom, ...]:
    """`full[start:stop]` as special tokens, text and the boundary of the turn before."""
    atoms: list[Atom] = []
    for low, high in ((start, max(start, boundary)), (max(start, boundary), stop)):
        cursor = low
        for found in specials.finditer(full, low, high):
            atoms += _texts(full[cursor : found.start()])
            atoms.append(int(template.tokenizer.convert_tokens_to_ids(found.group().strip())))
            cursor = found.end()
        atoms += _texts(full[cursor:high])
        if high == max(start, boundary) and boundary and Boundary() not in atoms:
            atoms.append(Boundary())
    return tuple(atoms)


def _texts(text: str) -> list[Atom]:
    before, found, after = text.partition(_SYSTEM)
    atoms: list[Atom] = [before, SystemText(), after] if found else [text]
    return [atom for atom in atoms if atom != ""]


def _refuses(template: Template, speakers: tuple[str, ...]) -> bool:
    try:
        template.render(speakers, ["a"] * len(speakers), False, None)
    except LayoutError:
        return True
    return False


def _describe(speakers: Sequence[str]) -> str:
    shown = ", ".join(speakers[:4]) + (", …" if len(speakers) > 4 else "")
    return f"{len(speakers)} turns ({shown})"
