/**
 * What all views stand on: templates that become nodes (never HTML), icons, and figures as people read them.
 */
import { h } from './vendor/preact.js';
import htm from './vendor/htm.js';

/** Tagged template → Preact nodes. Values are text or nodes; there is no way to put markup in. */
export const html = htm.bind(h);

const PATHS = {
  menu: 'M2.5 4.5h11M2.5 8h11M2.5 11.5h11',
  plus: 'M8 3v10M3 8h10',
  send: 'M8 13V3.5M3.8 7.5 8 3.3l4.2 4.2',
  copy: 'M6 5.5h6.5V13H6zM3.5 10.5V3H10',
  check: 'm3.2 8.6 3.1 3.1 6.5-7.2',
  again: 'M13 8a5 5 0 1 1-1.6-3.7M13 2.5v3h-3',
  edit: 'M3 13l.6-2.8 7-7 2.2 2.2-7 7zM9.4 4.4l2.2 2.2',
  gear: 'M2.5 5h6M11.5 5h2M2.5 11h2M7.5 11h6M10 3.5v3M6 9.5v3',
  download: 'M8 3v7.2M4.8 7.3 8 10.5l3.2-3.2M3 13.2h10',
  trash: 'M3 4.8h10M6.4 4.8V3.2h3.2v1.6M4.4 4.8l.6 8.4h6l.6-8.4',
  chevron: 'm6 4 4 4-4 4',
  left: 'm10 4-4 4 4 4',
  now: 'M9 2.5 4 9h3.6L7 13.5 12 7H8.4z',
  harder: 'm4 8.2 4-4 4 4M4 12.4l4-4 4 4',
  close: 'm4 4 8 8M12 4l-8 8',
};

/**
 * A line icon; decoration, so that readers of the screen skip it.
 * @param {{name: keyof typeof PATHS | 'stop'}} properties
 */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">
    ${name === 'stop' ? html`<rect x="4" y="4" width="8" height="8" rx="1.5" fill="currentColor" />` : html`<path d=${PATHS[name]} />`}
  </svg>`;
}

/**
 * A button with an icon, and with words unless `bare`.
 * @param {{icon: string, label: string, onClick: () => void, bare?: boolean, kind?: string, title?: string, disabled?: boolean}} properties
 */
export function Button({ icon, label, onClick, bare = false, kind = 'quiet', title, disabled, ...others }) {
  return html`<button type="button" class="button ${kind} ${bare ? 'bare' : ''}" onClick=${onClick} disabled=${disabled}
      title=${title ?? (bare ? label : undefined)} aria-label=${bare ? label : undefined} ...${others}>
    <${Icon} name=${icon} />${bare ? null : html`<span>${label}</span>`}
  </button>`;
}

const NUMBERS = new Intl.NumberFormat('en');

/** @param {number} value a count @returns {string} with thousands apart */
export const count = (value) => NUMBERS.format(value);

/** @param {number} seconds @returns {string} tenths below a minute, else minutes and seconds */
export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(seconds < 0.995 ? 2 : 1)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

/** @param {number} bytes @returns {string} */
export function memory(bytes) {
  const mb = bytes / 1e6;
  return mb >= 1000 ? `${(mb / 1000).toFixed(2)} GB` : `${mb.toFixed(mb < 10 ? 1 : 0)} MB`;
}

/** @param {number} number @param {string} noun @returns {string} "1 stream", "4 streams" */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? '' : 's'}`;

/**
 * Puts text on the clipboard. Over plain HTTP on a network there is no clipboard API: then the old command does it.
 * @param {string} text
 */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement('textarea');
  field.value = text;
  field.className = 'hidden';
  document.body.append(field);
  field.select();
  document.execCommand('copy');
  field.remove();
}

/** @param {string} name of the file @param {string} text @param {string} type MIME type */
export function download(name, text, type) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
