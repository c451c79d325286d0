/** Captions of one language in an element: a paragraph per utterance, stable text and behind it tentative. */

const KEPT_PARAGRAPHS = 300;

/**
 * What at the end of stable text may go to another line with what follows it: a word that may become longer or
 * get a comma, and where no spaces are written, a character to which punctuation may come. A space before it
 * is of no width at the end of a line.
 */
const OPEN_END = /\s*(?:[^\s\u2e80-\u9fff\uac00-\ud7af\uff00-\uffef]*|[^\s]\p{P}*)$/u;

/**
 * Text that has been shown as stable is never touched again: more of it is added behind. Tentative text comes
 * behind all of that and the element scrolls by stable text alone, so tentative text moves nothing.
 */
export class Captions {
  /** @param {HTMLElement} element  with a fixed height, in which captions scroll @param {string} language */
  constructor(element, language) {
    this._element = element;
    this._element.lang = language;
    this._inner = element.appendChild(document.createElement("div"));
    this._inner.className = "captions";
    /** @type {Map<number, {paragraph: HTMLElement, tentative: HTMLElement, shown: number}>} */
    this._running = new Map();
    /** @type {HTMLElement | null} the end of all stable text */
    this._last = null;
    this._following = true;
    this._top = 0;
    element.addEventListener("scroll", () => {
      // Whoever scrolls back reads there undisturbed, until they are back at the end.
      if (Math.abs(element.scrollTop - this._top) > 4) this._following = element.scrollTop >= this._end() - 4;
    });
    new ResizeObserver(() => this._scroll()).observe(element);
  }

  /** Show a `transcript` or `translation`. */
  show({ utterance, stable, tentative, final }) {
    const said = this._running.get(utterance) ?? this._begin(utterance);
    const length = final ? stable.length : OPEN_END.exec(stable).index;
    if (length > said.shown) {
      const more = document.createElement("span");
      more.className = "stable";
      more.textContent = stable.slice(said.shown, length);
      said.paragraph.insertBefore(more, said.tentative);
      said.shown = length;
      this._last = more;
    }
    said.tentative.textContent = stable.slice(said.shown) + tentative;
    if (final) {
      said.tentative.remove();
      if (!said.shown) said.paragraph.remove(); // nothing was said
      this._running.delete(utterance);
    }
    while (this._inner.childElementCount > KEPT_PARAGRAPHS) this._inner.firstElementChild.remove();
    this._scroll();
  }

  clear() {
    this._inner.replaceChildren();
    this._running.clear();
    this._last = null;
  }

  _begin(utterance) {
    const paragraph = document.createElement("p");
    paragraph.dir = "auto";
    const tentative = paragraph.appendChild(document.createElement("span"));
    tentative.className = "tentative";
    this._inner.append(paragraph);
    const said = { paragraph, tentative, shown: 0 };
    this._running.set(utterance, said);
    return said;
  }

  /** Where to scroll to so that stable text ends above the room for tentative text. */
  _end() {
    if (!this._last) return 0;
    const room = parseFloat(getComputedStyle(this._inner).paddingBottom);
    const [end, bottom] = [this._last, this._element].map((one) => one.getBoundingClientRect().bottom);
    return Math.max(0, Math.round(this._element.scrollTop + end + room - bottom));
  }

  _scroll() {
    if (!this._following) return;
    this._element.scrollTop = this._end();
    this._top = this._element.scrollTop;
  }
}

/** A language's name, in the language of the page. */
export function languageName(/** @type {string} */ code) {
  return new Intl.DisplayNames(["en"], { type: "language" }).of(code) ?? code;
}
