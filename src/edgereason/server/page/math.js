/**
 * Formulas as MathML. KaTeX, the largest file, is loaded with the first one; until then, and where it can't read a formula,
 * its source is shown.
 *
 * KaTeX's tree becomes nodes here, not there: it would set `style` attributes, which the page's policy forbids.
 */
import { lazy } from './lazy.js';
import { html } from './ui.js';

const OPTIONS = { output: 'mathml', trust: false, strict: 'ignore', maxExpand: 200, maxSize: 20, throwOnError: true };
/** Longer than any formula of an answer; a hostile one must not hold up the page. */
const MOST_CHARACTERS = 4_000;
/** Attributes that say how a formula looks. Not among them: style, and whatever loads or leads somewhere. */
const ATTRIBUTES = new Set([
  ...['accent', 'accentunder', 'columnalign', 'columnlines', 'columnspacing', 'depth', 'display', 'displaystyle'],
  ...['encoding', 'fence', 'height', 'largeop', 'linethickness', 'lspace', 'mathbackground', 'mathcolor', 'mathsize'],
  ...['mathvariant', 'maxsize', 'minsize', 'movablelimits', 'notation', 'rowlines', 'rowspacing', 'rspace'],
  ...['scriptlevel', 'separator', 'side', 'stretchy', 'symmetric', 'voffset', 'width', 'xmlns'],
]);

const useKatex = lazy(async () => {
  await import('./vendor/katex.js'); // puts itself into the window
  return globalThis.katex;
});

/** @param {{text: string, isDisplay: boolean}} properties */
export function Formula({ text, isDisplay }) {
  const katex = useKatex();
  const drawn = katex && drawing(katex, text, isDisplay);
  if (!drawn) return html`<code class=${isDisplay ? 'formula display' : 'formula'}>${text}</code>`;
  // A wide formula scrolls by itself; an inline one keeps to its line.
  return isDisplay ? html`<div class="formula display scroll" tabindex="0" role="group" aria-label="Formula">${drawn}</div>` : html`<span class="formula">${drawn}</span>`;
}

/** @param {any} katex @param {string} text @param {boolean} isDisplay @returns {any} null: it can't be read */
function drawing(katex, text, isDisplay) {
  if (text.length > MOST_CHARACTERS) return null;
  try {
    return node(katex.__renderToDomTree(text.trim(), { ...OPTIONS, displayMode: isDisplay }).children[0]);
  } catch {
    return null; // unfinished while it streams in, or not TeX
  }
}

/** @param {any} part of KaTeX's tree */
function node(part) {
  if (part.text !== undefined) return part.text;
  if (!part.children) return part.character ?? html`<mspace width=${`${part.width}em`} />`;
  if (!part.type) return part.children.map(node);
  if (part.type === 'annotation') return null; // the source again, for programs that copy
  const attributes = Object.entries(part.attributes).filter(([name]) => ATTRIBUTES.has(name));
  return html`<${part.type} ...${Object.fromEntries(attributes)}>${part.children.map(node)}<//>`;
}
