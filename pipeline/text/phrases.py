"""Where a phrase may be cut: what a line break between two words costs the reader.

Sources: Netflix, *Timed Text Style Guide: General Requirements*, section 5 (break after punctuation, before
conjunctions and prepositions; do not part article and noun, first and last name, pronoun and verb); BBC,
*Subtitle Guidelines*, section 3.4 (break at natural points).
"""

from __future__ import annotations

SENTENCE = 0.0
"""Cost of a break after a sentence."""

CLAUSE = 0.1
"""After a comma, a colon, a dash."""

OPENING = 0.2
"""Before a conjunction or a preposition."""

PLAIN = 0.5
"""Between two words of which nothing is known."""

NAME = 1.0
"""Between two capitalised words, which may be one name."""

BOUND = 1.5
"""Between two words that belong together."""

# Signs that look like ASCII ones are meant here.
_SENTENCE_ENDS = ".!?…。．！？｡؟۔।॥"  # noqa: RUF001
_CLAUSE_ENDS = ",;:–—،؛、，；：､"  # noqa: RUF001
_QUOTES = "\"'«»“”‘’„‚‹›()[]{}「」『』（）¿¡*"  # noqa: RUF001
_UNITS = "%‰°€$£"

# Words that belong to what follows them. Of each language first those before which a break is as bad as
# anywhere (articles, possessives, pronouns that stand before the verb, titles), then those that open a phrase
# (conjunctions, prepositions). A word that can be both is listed as what it mostly is.
_WORDS = {
    "de": (
        "der die das den dem des ein eine einen einem einer eines kein keine keinen keinem mein meine "
        "dein deine sein seine ihr ihre unser unsere dieser diese dieses diesen diesem jeder jede jedes "
        "ich wir er man herr frau dr. prof.",
        "und oder aber denn sondern weil dass daß ob wenn als während obwohl damit bis wie in im ins an "
        "am ans auf aus bei beim mit nach von vom zu zum zur für über unter vor hinter neben zwischen "
        "durch gegen ohne um seit wegen",
    ),
    "en": (
        "a an the this these those my your his her its our their some any no every each i he she we they "
        "not mr. mrs. ms. dr. prof. st.",
        "and or but nor so because although though while when where if unless until since that which who "
        "whom whose than as of in on at by for from with without to into onto about after before between "
        "through during under over against among toward towards",
    ),
    "es": (
        "el la los las un una unos unas lo mi tu su mis tus sus nuestro nuestra nuestros nuestras este "
        "esta estos estas ese esa esos esas aquel aquella cada algún alguna ningún ninguna yo me te se "
        "nos le les no sr. sra. dr. dra.",
        "y e o u ni pero sino aunque porque pues que si cuando donde como mientras quien cuyo cuya a al "
        "ante bajo con contra de del desde durante en entre hacia hasta para por según sin sobre tras",
    ),
    "fr": (
        "le la les un une mon ton son ma ta sa mes tes ses notre votre leur nos vos leurs ce cet cette "
        "ces chaque quelques plusieurs je tu il elle on nous vous ils elles ne se me te m. mme dr",
        "et ou mais donc car ni que qui quand lorsque si comme parce puisque dont où à au aux de du des "
        "en dans sur sous avec sans pour par chez vers entre depuis pendant contre",
    ),
    "it": (
        "il lo la i gli le un uno una mio mia miei mie tuo tua suo sua suoi sue nostro nostra questo "
        "questa questi queste quel quello quella ogni io non mi ti si ci vi sig. dott.",
        "e ed o ma però perché che se quando dove come mentre di del dello della dei degli delle a al "
        "allo alla ai agli alle da dal dalla in nel nella nei nelle con su sul sulla per tra fra senza",
    ),
    "pt": (
        "o a os as um uma uns umas meu minha seu sua nosso nossa este esta esse essa cada eu não me te "
        "lhe sr. sra. dr. dra.",
        "e ou mas porque que se quando onde como enquanto de do da dos das em no na nos nas ao à aos às "
        "por pelo pela para com sem sobre até entre desde",
    ),
}
_LEADING = {language: frozenset(leading.split()) for language, (leading, _) in _WORDS.items()}
_OPENERS = {language: frozenset(openers.split()) for language, (_, openers) in _WORDS.items()}


def leans(word: str, language: str) -> bool:
    """Whether a word belongs to the one behind it, as an article or a preposition does.

    Args:
        word: with its punctuation and the space before it.
        language: its ISO 639-1 code; of languages without a list no word leans.
    """
    bare, code = word.lower().lstrip(" " + _QUOTES), _primary(language)
    return bare in _LEADING.get(code, ()) or bare in _OPENERS.get(code, ())


def break_cost(before: str, after: str, language: str) -> float:
    """What a line break between two words costs, from :data:`SENTENCE` to :data:`BOUND`.

    Args:
        before: the last word of the line, with its punctuation.
        after: the first word of the next one.
        language: ISO 639-1 code; for languages without a list of words punctuation and capitals decide.
    """
    if leans(before, language):
        return BOUND
    before, after = before.strip(" " + _QUOTES), after.strip(" " + _QUOTES)
    if not before or not after:
        return PLAIN
    if before[-1] in _SENTENCE_ENDS:
        return SENTENCE
    if before[-1] in _CLAUSE_ENDS:
        return CLAUSE
    if before[-1].isdigit() and (after[0].isdigit() or after[0] in _UNITS):
        return BOUND
    if before[0].isupper() and after[0].isupper():
        return NAME
    return OPENING if after.lower() in _OPENERS.get(_primary(language), ()) else PLAIN


def _primary(language: str) -> str:
    return language.partition("-")[0].lower()
