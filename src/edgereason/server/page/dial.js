/**
 * The switcher's dial: how likely thinking is to help, and from where on it thinks.
 */
import { html } from './ui.js';

const RADIUS = 20;
const LENGTH = Math.PI * RADIUS;
/** A half circle from left (0) over the top to right (1). */
const ARC = `M${24 - RADIUS} 24A${RADIUS} ${RADIUS} 0 0 1 ${24 + RADIUS} 24`;

/** @param {number} part 0 to 1 @param {number} radius @returns {[number, number]} */
function at(part, radius) {
  const angle = Math.PI * (1 - part);
  return [24 + radius * Math.cos(angle), 24 - radius * Math.sin(angle)];
}

/**
 * @param {{routed: NonNullable<import('./conversation.js').Answer['routed']>}} properties
 */
export function Dial({ routed: { p_think: p, threshold, route } }) {
  if (p == null) return null;
  const [x1, y1] = at(threshold ?? 0, RADIUS - 5);
  const [x2, y2] = at(threshold ?? 0, RADIUS + 5);
  const words = `${p.toFixed(2)}${threshold == null ? '' : `, thinks from ${threshold.toFixed(2)} on`}`;
  return html`<svg class="dial ${route}" viewBox="0 0 48 27" role="meter" aria-label="Probability that thinking helps"
      aria-valuemin="0" aria-valuemax="1" aria-valuenow=${p.toFixed(2)} aria-valuetext=${words}>
    <path class="track" d=${ARC} />
    <path class="value" d=${ARC} style=${{ strokeDasharray: `${p * LENGTH} ${LENGTH}` }} />
    ${threshold == null ? null : html`<line class="threshold" x1=${x1} y1=${y1} x2=${x2} y2=${y2} />`}
    <text x="24" y="24">${p.toFixed(2).replace(/^0/, '')}</text>
  </svg>`;
}

/**
 * In words what the dial shows.
 * @param {{routed: NonNullable<import('./conversation.js').Answer['routed']>}} properties
 */
export function Route({ routed }) {
  const { p_think: p, threshold, route } = routed;
  const why = p == null ? null : threshold == null ? `p(think) ${p.toFixed(2)}` : `p(think) ${p.toFixed(2)} ${p >= threshold ? '≥' : '<'} ${threshold.toFixed(2)}`;
  return html`<div class="route">
    <${Dial} routed=${routed} />
    <div><strong>${route === 'think' ? 'Thinks' : 'Chats'}</strong>${why ? html`<span class="figure">${why}</span>` : null}</div>
  </div>`;
}
