"""Plain words for the numbers and roles of heads: what a newcomer reads beside them."""

from collections.abc import Mapping

ABOUT_ROLES: Mapping[str, str] = {
    "previous_token": "From every word piece it looks at the piece just before. It tells each position what came one "
    "step earlier, which later heads build on.",
    "next_token": "From every word piece it looks at the piece just after, which only a model that reads both ways can "
    "do.",
    "self_token": "Every word piece looks at itself, so the head works on the piece itself and moves nothing between "
    "words.",
    "first_token": "It looks at the first position of the text, which carries no content: a place to rest when the "
    "head has nothing to fetch (an attention sink). Heads often rest on most words and work on a few.",
    "duplicate_token": "At a piece that occurred before, it looks back at its earlier copy.",
    "induction": "At a piece that occurred before, it looks at what followed the earlier copy. In “A B … A” it looks "
    "from the second A at B, so the model can guess that B comes next: copying a pattern after one sight of it.",
    "sink": "It looks at the first position of the text, which carries no content: a place to rest when the head has "
    "nothing to fetch. Heads often rest on most words and work on a few.",
    "positional": "It looks at one fixed distance, whatever the words are.",
    "retrieval": "It fetches a fact from far back in a long text at the moment when the answer is written.",
    "name_mover": "It copies a name from earlier in the text to the place where the model has to say it.",
    "copy_suppression": "It lowers the chance of words that other parts of the model want to repeat.",
    "successor": "It raises the next item of a series: after Monday, Tuesday; after three, four.",
    "entity": "It looks at the words that name persons, places and things.",
    "syntactic": "It looks from a word at the word that it depends on in the grammar of the sentence.",
    "mixed": "It does several jobs about equally well; each is listed with its own score.",
}
"""What a head of each role does and why that matters; roles that are not listed have their name alone."""

_MEANINGS: Mapping[str, str] = {
    "entropy": "How spread out its attention is: 0 when all goes to one position.",
    "confidence": "Its largest attention weight, averaged over positions: 1 when all goes to one position.",
    "distance": "How far back (or ahead) it looks on average.",
    "previous_token": "Share of its attention that goes to the piece just before.",
    "next_token": "Share of its attention that goes to the piece just after.",
    "self_token": "Share of its attention that goes to the same piece.",
    "first_token": "Share of its attention that goes to the first position.",
    "positional_share": "Share of its attention at its favourite distance.",
    "duplicate_token": "On random pieces said twice: share of attention from the second copy to the first.",
    "induction": "On random pieces said twice: share of attention from the second copy to what followed the first.",
    "retrieval": "Share of questions about a fact in which it looks most at the answer when the answer is due.",
    "name_mover": "Attention to a name that the model has to say, counted where the head's weights raise that name.",
    "copy_suppression": "Share of words whose own chance its weights lower most when it looks at them.",
    "successor": "Share of words whose successor its weights raise most: Monday, Tuesday.",
}

SKILLS: Mapping[str, str] = {
    "prose_loss": "predicting the next piece of prose",
    "repeat_loss": "continuing a sequence that it has seen once",
    "ioi_logit_difference": "telling which of two names comes next",
}
"""What a model is good at where the objective of an ablation is good."""

_LABELS: Mapping[str, str] = {
    "prose_loss": "removal: loss on prose",
    "repeat_loss": "removal: loss on repeats",
    "ioi_logit_difference": "removal: preference for the right name",
    "positional_share": "share at its favourite distance",
}


def about_role(name: str) -> str:
    """Return what a head of a role does and why that matters; "" for a role that is not known."""
    relation, link, end = name.partition("_to_")
    if link and end in ("head", "dependent"):
        of = "the word that it depends on" if end == "head" else "a word that depends on it"
        return f"It looks from a word at {of} in the grammar of the sentence, where their relation is {relation}."
    return ABOUT_ROLES.get(name, "")


def label_of(name: str) -> str:
    """Return a name of a metric, role or ablation as people read it."""
    stem = name.removesuffix("_again")
    label = _LABELS.get(stem, stem.replace("_", " "))
    return f"{label}, fresh examples" if stem != name else label


def meaning_of(name: str, ablations: Mapping[str, str]) -> str:
    """Return what a metric measures, in one sentence; "" where it has none."""
    stem = name.removesuffix("_again")
    if stem in ablations:
        where = "; asked again on fresh examples, of leading and of some other heads" if stem != name else ""
        return (
            f"Change of the {ablations[stem].partition(':')[0]} when the head's output is replaced by its mean{where}."
        )
    return _MEANINGS.get(name, "")
