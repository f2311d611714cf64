"""Indirect-object prompts: "When Mary and John went to the store, John gave a drink to" (Wang et al. 2022).

Dimension key: `B` examples, `T` positions. The wording is our own, in the manner of the paper's templates.
Everything here is NumPy on the host and takes a tokenizer, never a model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import at_least, checked
from ..checks import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# No frame starts with a name: every name follows a space, so it is one token id at every position.
FRAMES = (
    "When{first} and{second} went to the{place},{giver} gave a{object} to",
    "Then,{first} and{second} walked over to the{place}, where{giver} handed a{object} to",
    "After{first} and{second} had arrived at the{place},{giver} decided to give a{object} to",
    "While{first} and{second} were working at the{place},{giver} passed a{object} to",
    "Yesterday,{first} and{second} met near the{place}, and{giver} offered a{object} to",
    "Once{first} and{second} had left the{place},{giver} wanted to send a{object} to",
    "Because{first} and{second} had a long day at the{place},{giver} bought a{object} for",
    "Before{first} and{second} came back from the{place},{giver} showed a{object} to",
    "Later,{first} and{second} had an argument about the{place}, and then{giver} said to",
    "Friends of the family,{first} and{second} found a{object} at the{place}, and{giver} gave it to",
)

NAMES = """
    Aaron Adam Alan Albert Alex Alice Amanda Amy Andrea Andrew Andy Angela Anna Anne Anthony Arthur Barbara
    Ben Benjamin Betty Bill Bob Brad Brandon Brian Bruce Carl Carol Caroline Catherine Charles Charlie
    Charlotte Chris Christina Claire Clara Craig Daniel David Dean Deborah Dennis Diana Donald Dorothy
    Douglas Edward Elizabeth Ellen Emily Emma Eric Ethan Eva Evan Frank Fred Gary George Gordon Graham Greg
    Hannah Harold Harry Heather Helen Henry Howard Ian Isaac Jack Jacob James Jamie Jane Jason Jeff Jennifer
    Jeremy Jerry Jessica Jim Joan Joe John Jonathan Joseph Josh Joshua Juan Julia Julie Justin Karen Kate
    Katherine Keith Kelly Ken Kenneth Kevin Kim Kyle Larry Laura Lauren Lawrence Lee Lewis Linda Lisa Louis
    Lucas Lucy Luke Margaret Maria Marie Mark Martha Martin Mary Matt Matthew Max Melissa Michael Michelle
    Mike Nancy Nathan Neil Nicholas Nick Nicole Oliver Oscar Pamela Patricia Patrick Paul Peter Philip
    Rachel Ralph Ray Rebecca Richard Rob Robert Roger Ron Rose Roy Russell Ruth Ryan Sam Samuel Sandra Sara
    Sarah Scott Sean Sharon Simon Sophie Stephen Steve Steven Stuart Susan Taylor Terry Thomas Tim Todd Tom
    Tony Tyler Victor Victoria Vincent Walter Wayne William
"""

PLACES = """
    airport bakery bank beach bridge cafe camp castle church cinema circus clinic college farm garage garden
    gym harbor hospital hotel house lake library mall market museum office palace park pool pub restaurant
    river school shop stadium station store studio temple theater tower town university village zoo
"""

# Each begins with a consonant: the frames say "a".
OBJECTS = """
    bag ball basket basketball bed bell belt bone book bottle bowl box bracelet brush cake camera candle
    card chair chain clock coat coin computer cup doll drink drum dress flag flower football gift glass
    guitar hammer hat jacket jar key knife ladder lamp letter list map medal mirror necklace newspaper
    note painting pen pencil phone photo picture plate poem present radio ring rope scarf shirt snack spoon
    stick stone sword ticket tool toy watch whistle
"""

_FEWEST = {"names": 10, "places": 3, "objects": 3}


@dataclass(frozen=True, eq=False)
class IOIPrompts:
    """Prompts that a model completes with the indirect object, with the positions of their names.

    Attributes:
        texts: B strings (without the BOS).
        tokens: int32 `[B,T]`, padded on the right.
        mask: bool `[B,T]`, True on real tokens.
        indirect_object, subject: int32 `[B]`, the right and the wrong answer's token.
        io, s1, s2, end: int32 `[B]`, the positions of the indirect object, of the subject's two mentions, and of the
            last real token, at which the answer is read.
        template: int32 `[B]`, 2 * frame for ABBA order (indirect object first), 2 * frame + 1 for BABA. All prompts of
            one template have the same length and positions.
    """

    texts: tuple[str, ...]
    tokens: np.ndarray
    mask: np.ndarray
    indirect_object: np.ndarray
    subject: np.ndarray
    io: np.ndarray
    s1: np.ndarray
    s2: np.ndarray
    end: np.ndarray
    template: np.ndarray
    skeletons: tuple[str, ...] = field(repr=False)
    names: Mapping[str, int] = field(repr=False)

    @checked()
    def corrupted(self, seed: int) -> "IOIPrompts":
        """Return the ABC corruption: three unrelated names in place of IO, S1 and S2 (Wang et al.'s p_ABC).

        The three differ from each other and from the prompt's two names. All other tokens, the template and the
        positions stay; `indirect_object` and `subject` stay as well, so one objective reads both runs.
        """
        rng = np.random.default_rng(seed)
        names, ids = list(self.names), np.array(list(self.names.values()), np.int32)
        tokens, texts = self.tokens.copy(), []
        for row, skeleton in enumerate(self.skeletons):
            others = np.flatnonzero((ids != self.indirect_object[row]) & (ids != self.subject[row]))
            chosen = rng.choice(others, 3, replace=False)
            tokens[row, [self.io[row], self.s1[row], self.s2[row]]] = ids[chosen]
            io, s1, s2 = (" " + names[index] for index in chosen)
            texts.append(skeleton.format(io=io, s1=s1, s2=s2))
        return replace(self, texts=tuple(texts), tokens=tokens)


def is_tokenizer(name: str, value: object) -> None:
    """Raise ValueError unless an argument is a tokenizer."""
    if isinstance(value, str) or not callable(getattr(value, "encode", None)):
        raise ValueError(f"{name} must be a tokenizer, such as model.tokenizer; got {shown(value)}")


@checked(examples=at_least(1), tokenizer=is_tokenizer)
def ioi_prompts(tokenizer: "PreTrainedTokenizerBase", *, examples: int, seed: int, bos: bool) -> IOIPrompts:
    """Draw indirect-object prompts, spread evenly over 10 frames in ABBA and BABA order.

    Only names, places and objects that are one token of this tokenizer after a space are used.

    Args:
        bos: whether the tokenizer's BOS comes first (positions count it).

    Raises:
        ValueError: for fewer than 10 names, 3 places or 3 objects, or a tokenizer without the BOS that is asked for.
    """
    names = single_tokens(tokenizer, NAMES.split(), "names")
    places = single_tokens(tokenizer, PLACES.split(), "places")
    objects = single_tokens(tokenizer, OBJECTS.split(), "objects")

    rng = np.random.default_rng(seed)
    template = rng.permutation(np.arange(examples, dtype=np.int32) % (2 * len(FRAMES)))
    skeletons = tuple(_skeleton(int(number), rng, list(places), list(objects)) for number in template)
    pairs = [rng.choice(list(names), 2, replace=False) for _ in skeletons]
    texts = tuple(
        skeleton.format(io=f" {io}", s1=f" {subject}", s2=f" {subject}")
        for skeleton, (io, subject) in zip(skeletons, pairs, strict=True)
    )
    tokens, mask = padded_tokens(tokenizer, texts, bos)
    indirect_object, subject = np.array([[names[name] for name in pair] for pair in pairs], np.int32).T
    io, s1, s2 = _positions(tokens, mask, indirect_object, subject, texts)
    end = mask.sum(1).astype(np.int32) - 1
    _check_lengths(template, end)
    return IOIPrompts(texts, tokens, mask, indirect_object, subject, io, s1, s2, end, template, skeletons, names)


def _skeleton(template: int, rng: np.random.Generator, places: list[str], objects: list[str]) -> str:
    """Return a template's text with place and object filled in; its names stay format fields."""
    frame, swapped = FRAMES[template // 2], template % 2
    first, second = ("{s1}", "{io}") if swapped else ("{io}", "{s1}")
    place, thing = " " + str(rng.choice(places)), " " + str(rng.choice(objects))
    return frame.format(first=first, second=second, giver="{s2}", place=place, object=thing)


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def _special(tokenizer: "PreTrainedTokenizerBase", kind: str) -> int | None:
    token = getattr(tokenizer, f"{kind}_token_id")
    return None if token is None else int(token)


def single_tokens(tokenizer: "PreTrainedTokenizerBase", candidates: Iterable[str], kind: str) -> dict[str, int]:
    """Return the ids of the candidates that are one known token after a space and no word of the frames."""
    blank = dict.fromkeys(("first", "second", "giver", "place", "object"), "")
    taken = {token for frame in FRAMES for token in _encode(tokenizer, frame.format(**blank))}
    words: dict[str, int] = {}
    for word in candidates:
        token = token_after_space(tokenizer, word)
        if token is not None and token not in taken:
            taken.add(token)
            words[word] = token
    if len(words) < _FEWEST[kind]:
        raise ValueError(
            f"only {len(words)} of the {kind} tried are one token of this tokenizer "
            f"({', '.join(words) or 'none'}), at least {_FEWEST[kind]} are needed: "
            "indirect-object prompts need a tokenizer with more whole words"
        )
    return words


def token_after_space(tokenizer: "PreTrainedTokenizerBase", word: str) -> int | None:
    """Return the token of a word within a text, or None where it is several tokens, or unknown."""
    before, ids = _encode(tokenizer, "and"), _encode(tokenizer, f"and {word}")
    known = len(ids) == len(before) + 1 and ids[:-1] == before and ids[-1] != _special(tokenizer, "unk")
    return ids[-1] if known else None


def padded_tokens(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], bos: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens and mask `[B,T]` of the texts, padded on the right."""
    start = _special(tokenizer, "bos") if bos else None
    if bos and start is None:
        raise ValueError("bos=True, but this tokenizer has no BOS token: pass bos=False")
    lead = [] if start is None else [start]
    rows = [lead + _encode(tokenizer, text) for text in texts]
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    pad = _special(tokenizer, "pad")
    tokens = np.full(mask.shape, 0 if pad is None else pad, np.int32)
    tokens[mask] = np.concatenate(rows)
    return tokens, mask


def _positions(
    tokens: np.ndarray,
    mask: np.ndarray,
    indirect_object: np.ndarray,
    subject: np.ndarray,
    texts: tuple[str, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions of IO, S1 and S2, `[B]` each, found by token id.

    Raises:
        ValueError: for a prompt that does not hold IO's token once and the subject's twice.
    """
    is_io = mask & (tokens == indirect_object[:, None])
    is_subject = mask & (tokens == subject[:, None])
    wrong = (is_io.sum(1) != 1) | (is_subject.sum(1) != 2)
    if wrong.any():
        raise ValueError(
            f"the names of {texts[int(wrong.argmax())]!r} are not single tokens here: this tokenizer "
            "joins a name with its neighbours, so positions cannot be given"
        )
    last = tokens.shape[1] - 1 - is_subject[:, ::-1].argmax(1)
    return is_io.argmax(1).astype(np.int32), is_subject.argmax(1).astype(np.int32), last.astype(np.int32)


def _check_lengths(template: np.ndarray, end: np.ndarray) -> None:
    for number in np.unique(template):
        lengths = np.unique(end[template == number]) + 1
        if len(lengths) > 1:
            raise ValueError(
                f"prompts of template {number} have lengths {lengths.tolist()}, one was expected: "
                "this tokenizer joins a place or an object with its neighbours"
            )
