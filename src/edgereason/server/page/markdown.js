/**
 * Markdown becomes nodes, token by token. No HTML is ever parsed: what looks like it stays text.
 */
import { Component } from './vendor/preact.js';
import { useEffect, useState } from './vendor/hooks.js';
import { Marked } from './vendor/marked.js';
import { Button, copy, html } from './ui.js';
import { Formula } from './math.js';

/** @typedef {{type: string, raw: string, text?: string, tokens?: Token[], [field: string]: any}} Token */

/** Links lead to these only: no javascript:, no data:. */
const SCHEMES = new Set(['http:', 'https:', 'mailto:']);

// As pandoc has it: no space inside the dollars, no digit behind them. So "$5 and $10" stays money.
const INLINE = /^(?:\$\$([^$]+?)\$\$|\$(?!\s)((?:\\[^\n]|[^$\\\n])+?)(?<!\s)\$(?!\d)|\\\(([\s\S]+?)\\\)|\\\[([\s\S]+?)\\\])/;
const BLOCK = /^ {0,3}(?:\$\$([\s\S]+?)\$\$|\\\[([\s\S]+?)\\\]) *(?:\n|$)/;

const marked = new Marked({
  gfm: true,
  breaks: true, // small models write a step a line, and mean it
  extensions: [
    {
      name: 'formula',
      level: 'inline',
      start: (source) => source.match(/\$|\\[([]/)?.index,
      tokenizer(source) {
        const found = INLINE.exec(source);
        if (!found) return undefined;
        const isDisplay = found[1] !== undefined || found[4] !== undefined;
        return { type: 'formula', raw: found[0], text: found.slice(1).find((part) => part !== undefined), isDisplay };
      },
    },
    {
      name: 'formulas',
      level: 'block',
      start: (source) => source.match(/\$\$|\\\[/)?.index,
      tokenizer(source) {
        const found = BLOCK.exec(source);
        return found ? { type: 'formula', raw: found[0], text: found[1] ?? found[2], isDisplay: true } : undefined;
      },
    },
  ],
});

// Its expressions are compiled when they are first used: better now, while the prompt is read, than with the answer.
setTimeout(() => marked.lexer('# a\n\n- b **c** *d* `e` [f](g) <h> $i$\n\n> j\n\n|k|\n|-|\n|l|\n\n```\nm\n```\n\n1. n'));

/** @param {string} href @returns {string | null} null: not a place that a link may lead to */
export function safeHref(href) {
  try {
    const url = new URL(href);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null; // relative: it would lead into this page
  }
}

const ENTITIES = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0' };

/** The lexer leaves entities to HTML, which is not made here. @param {string} text */
const decoded = (text) => text.replace(/&(?:#39|(amp|lt|gt|quot|apos|nbsp));/g, (_, name) => ENTITIES[name ?? 'apos']);

/** Blocks that are drawn at once: a long answer that comes whole must not hold up the page. */
const BLOCKS_AT_ONCE = 6;

/** A text in Markdown. @param {{text: string}} properties */
export function Markdown({ text }) {
  const [most, setMost] = useState(BLOCKS_AT_ONCE);
  const tokens = marked.lexer(text);
  useEffect(() => {
    if (tokens.length <= most) return undefined;
    const timer = setTimeout(() => setMost(most + BLOCKS_AT_ONCE));
    return () => clearTimeout(timer);
  }, [tokens.length > most, most]);
  return html`<div class="markdown">
    ${tokens.slice(0, most).map((token, place) => html`<${Block} key=${place} token=${token} />`)}
  </div>`;
}

/** A block is drawn again only if its source changed: while text streams in, that is the last one. */
class Block extends Component {
  /** @param {{token: Token}} next */
  shouldComponentUpdate(next) {
    return next.token.raw !== this.props.token.raw || next.token.type !== this.props.token.type;
  }
  render() {
    return block(this.props.token);
  }
}

/** @param {Token} token */
function block(token) {
  switch (token.type) {
    case 'space':
    case 'def':
      return null;
    case 'heading':
      // The page's own headings come first: an answer's begin below them.
      return html`<${`h${Math.min(token.depth + 2, 6)}`}>${inline(token.tokens)}<//>`;
    case 'paragraph':
      return html`<p>${inline(token.tokens)}</p>`;
    case 'code':
      return html`<${Code} text=${token.text} language=${token.lang?.split(/\s/, 1)[0]} />`;
    case 'blockquote':
      return html`<blockquote>${token.tokens.map(block)}</blockquote>`;
    case 'list':
      return token.ordered
        ? html`<ol start=${token.start || 1}>${token.items.map(item)}</ol>`
        : html`<ul>${token.items.map(item)}</ul>`;
    case 'table':
      return table(token);
    case 'hr':
      return html`<hr />`;
    case 'formula':
      return html`<${Formula} text=${token.text} isDisplay=${token.isDisplay} />`;
    case 'text':
      return span(token);
    default:
      return html`<p>${token.raw.trimEnd()}</p>`; // HTML, and whatever else there may be, as it was written
  }
}

/** @param {Token} token */
const item = (token) => html`<li>
  ${token.task ? html`<input type="checkbox" disabled checked=${token.checked} aria-label=${token.checked ? 'done' : 'open'} /> ` : null}
  ${token.tokens.filter(({ type }) => type !== 'checkbox').map(block)}
</li>`;

/** @param {Token} token */
function table(token) {
  const cells = (row, Tag) =>
    row.map((cell, column) => html`<${Tag} class=${token.align[column] ?? ''}>${inline(cell.tokens)}<//>`);
  // Wide tables scroll by themselves, and can be reached by keyboard.
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Table"><table>
    <thead><tr>${cells(token.header, 'th')}</tr></thead>
    <tbody>${token.rows.map((row) => html`<tr>${cells(row, 'td')}</tr>`)}</tbody>
  </table></div>`;
}

/** @param {Token[]} tokens */
const inline = (tokens) => tokens.map(span);

/** @param {Token} token */
function span(token) {
  switch (token.type) {
    case 'text':
      return token.tokens ? inline(token.tokens) : decoded(token.text);
    case 'escape':
      return token.text;
    case 'strong':
      return html`<strong>${inline(token.tokens)}</strong>`;
    case 'em':
      return html`<em>${inline(token.tokens)}</em>`;
    case 'del':
      return html`<del>${inline(token.tokens)}</del>`;
    case 'codespan':
      return html`<code>${token.text}</code>`;
    case 'br':
      return html`<br />`;
    case 'link':
      return link(token.href, inline(token.tokens), token.raw);
    case 'image': // nothing is loaded from elsewhere: a link says where it would be
      return link(token.href, token.text || token.href, token.raw);
    case 'formula':
      return html`<${Formula} text=${token.text} isDisplay=${token.isDisplay} />`;
    default:
      return token.raw;
  }
}

/** @param {string} href @param {any} content @param {string} raw */
function link(href, content, raw) {
  const safe = safeHref(href);
  return safe ? html`<a href=${safe} target="_blank" rel="noopener noreferrer">${content}</a>` : raw;
}

/** @param {{text: string, language?: string}} properties */
function Code({ text, language }) {
  const [isCopied, setCopied] = useState(false);
  const take = async () => {
    await copy(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<figure class="code">
    <figcaption><span>${language ?? ''}</span><${Button} bare icon=${isCopied ? 'check' : 'copy'} label=${isCopied ? 'Copied' : 'Copy code'} onClick=${take} /></figcaption>
    <pre tabindex="0"><code>${text}</code></pre>
  </figure>`;
}
