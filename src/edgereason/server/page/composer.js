/**
 * Where the next question is written, with the choices that change from question to question.
 */
import { useLayoutEffect, useRef, useState } from './vendor/hooks.js';
import { ask, stop } from './asking.js';
import { efforts, set, settings } from './settings.js';
import { changed, state } from './state.js';
import { Button, html, Icon } from './ui.js';

const MODES = [
  ['auto', 'Auto', 'The switcher decides whether to think'],
  ['chat', 'Chat', 'Answers at once'],
  ['think', 'Think', 'Thinks first'],
];
const SECONDS = ['2s', '5s', '10s', '30s'];

export function nextMode() {
  const place = MODES.findIndex(([mode]) => mode === settings.mode);
  set({ mode: MODES[(place + 1) % MODES.length][0] });
}

export function Composer() {
  const [text, setText] = useState('');
  const field = useRef(/** @type {HTMLTextAreaElement | null} */ (null));
  const isBusy = state.open !== null && state.running.has(state.open.id);
  useLayoutEffect(() => {
    // The field grows with its text, up to what the style allows.
    field.current.style.height = 'auto';
    field.current.style.height = `${field.current.scrollHeight}px`;
  }, [text]);
  const give = () => {
    if (isBusy || !text.trim()) return;
    void ask(text.trim());
    setText('');
  };
  const onKey = (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    give();
  };
  return html`<form class="composer" onSubmit=${(event) => (event.preventDefault(), give())}>
    <textarea id="question" ref=${field} rows="1" aria-label="Question" placeholder="Ask a question" value=${text}
      onInput=${(event) => setText(event.target.value)} onKeyDown=${onKey} />
    <div class="choices">
      <${Modes} />
      ${settings.mode === 'chat' ? null : html`<${Budget} /><${Streams} />`}
      <span class="space" />
      <${Button} bare icon="gear" label="Settings" onClick=${() => ((state.dialog = 'settings'), changed())} />
      ${isBusy
        ? html`<${Button} bare icon="stop" kind="primary round" label="Stop" onClick=${() => stop(state.open)} />`
        : html`<button type="submit" class="button primary round bare" aria-label="Ask" disabled=${!text.trim()}><${Icon} name="send" /></button>`}
    </div>
  </form>`;
}

function Modes() {
  return html`<fieldset class="modes">
    <legend class="hidden">Mode</legend>
    ${MODES.map(([mode, words, title]) => html`<label title=${title}>
      <input type="radio" name="mode" value=${mode} checked=${settings.mode === mode} onChange=${() => set({ mode })} /><span>${words}</span>
    </label>`)}
  </fieldset>`;
}

/** An effort, or seconds; what was written in the settings stands here too. */
function Budget() {
  const value = settings.budget ? `=${settings.budget}` : settings.effort;
  const own = settings.budget && !SECONDS.includes(settings.budget) ? [settings.budget] : [];
  const choose = (event) => {
    const chosen = event.target.value;
    set(chosen.startsWith('=') ? { budget: chosen.slice(1) } : { effort: chosen, budget: '' });
  };
  const words = (budget) => (/^\d+$/.test(budget) ? `${budget} tokens` : budget.replace(/\s*s$/, ' s'));
  return html`<select aria-label="Budget" title="What a stream may spend" onChange=${choose} value=${value}>
    <optgroup label="Tokens a stream">${efforts().map(([name, label]) => html`<option value=${name} selected=${value === name}>${label}</option>`)}</optgroup>
    <optgroup label="Seconds in all">${[...SECONDS, ...own].map((budget) => html`<option value=${`=${budget}`} selected=${value === `=${budget}`}>${words(budget)}</option>`)}</optgroup>
  </select>`;
}

function Streams() {
  const most = state.info?.limits.streams ?? 8;
  const choices = [1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64].filter((number) => number <= most);
  return html`<select aria-label="Streams" title="Streams that think side by side" value=${settings.streams}
      onChange=${(event) => set({ streams: Number(event.target.value) })}>
    ${choices.map((number) => html`<option value=${number} selected=${number === settings.streams}>${number === 1 ? '1 stream' : `${number} streams`}</option>`)}
  </select>`;
}
