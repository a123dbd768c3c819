/**
 * The conversations that are kept on this device.
 */
import { open, openNew, remove } from './asking.js';
import { changed, state } from './state.js';
import { Button, html } from './ui.js';

const DAY_MS = 86_400_000;

/** @param {number} time @returns {string} */
function when(time) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) - time) / DAY_MS);
  if (days <= 0) return 'Today';
  if (days === 1) return 'Yesterday';
  if (days < 7) return 'This week';
  return new Date(time).toLocaleDateString('en', { month: 'long', year: 'numeric' });
}

export function Sidebar() {
  const groups = Object.entries(Object.groupBy(state.titles, ({ changed: time }) => when(time)));
  return html`<nav class="sidebar ${state.isMenuOpen ? 'open' : ''}" aria-label="Conversations">
    <div class="brand"><${Mark} />edgereason</div>
    <${Button} icon="plus" kind="outline wide" label="New conversation" onClick=${openNew} />
    <div class="titles">
      ${groups.map(([day, titles]) => html`<section key=${day}>
        <h2>${day}</h2>
        <ul>${titles.map(({ id, title }) => html`<li key=${id} class=${state.open?.id === id ? 'current' : ''}>
          <button type="button" class="title" aria-current=${state.open?.id === id ? 'page' : undefined} onClick=${() => open(id)}>
            ${state.running.has(id) ? html`<span class="pulse" title="Being answered" />` : null}<span>${title}</span>
          </button>
          <${Button} bare icon="trash" label=${`Delete “${title}”`} title="Delete" onClick=${() => remove(id)} />
        </li>`)}</ul>
      </section>`)}
      ${state.titles.length ? null : html`<p class="hint">Conversations stay on this device.</p>`}
    </div>
    <div class="foot">
      <${Button} icon="gear" label="Settings" onClick=${() => ((state.dialog = 'settings'), changed())} />
      <button type="button" class="button quiet bare" aria-label="Keyboard shortcuts" title="Keyboard shortcuts" onClick=${() => ((state.dialog = 'shortcuts'), changed())}><b>?</b></button>
    </div>
  </nav>`;
}

const Mark = () => html`<svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
  <rect width="32" height="32" rx="9" /><path d="M8 10h16" /><path d="M8 16h10" opacity=".75" /><path d="M8 22h13" opacity=".5" />
</svg>`;
