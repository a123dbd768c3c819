/**
 * Dialogs: settings, the server's key, keyboard shortcuts.
 */
import { useEffect, useRef, useState } from './vendor/hooks.js';
import * as api from './api.js';
import { connect } from './connect.js';
import { exportAll, forgetAll } from './keeping.js';
import { SHORTCUTS } from './keys.js';
import { efforts, set, settings } from './settings.js';
import { changed, state } from './state.js';
import { Button, html } from './ui.js';

/** A modal dialog. @param {{title: string, children: any}} properties */
function Dialog({ title, children }) {
  const box = useRef(null);
  useEffect(() => {
    box.current.showModal();
  }, []);
  const close = () => {
    state.dialog = '';
    changed();
  };
  return html`<dialog ref=${box} onClose=${close} aria-labelledby="dialog-title"
      onClick=${(event) => event.target === box.current && box.current.close()}>
    <div class="sheet">
      <header><h2 id="dialog-title">${title}</h2><${Button} bare icon="close" label="Close" onClick=${() => box.current.close()} /></header>
      ${children}
    </div>
  </dialog>`;
}

/** A labelled field. @param {{label: string, hint?: string, children: any}} properties */
const Field = ({ label, hint, children }) => html`<label class="field">
  <span class="name">${label}</span>${children}${hint ? html`<span class="hint">${hint}</span>` : null}
</label>`;

/** @param {{name: keyof typeof settings, choices: [string, string][]}} properties */
const Choice = ({ name, choices }) => html`<select value=${settings[name]} onChange=${(event) => set({ [name]: event.target.value })}>
  ${choices.map(([value, words]) => html`<option value=${value} selected=${String(settings[name]) === value}>${words}</option>`)}
</select>`;

/** @param {{name: keyof typeof settings, [attribute: string]: any}} properties */
const Text = ({ name, ...attributes }) => html`<input value=${settings[name]} onInput=${(event) => set({ [name]: event.target.value })} ...${attributes} />`;

export function SettingsDialog() {
  const { info } = state;
  const votes = info?.votes ?? ['majority', 'weighted', 'best'];
  return html`<${Dialog} title="Settings">
    <h3>Thinking</h3>
    <div class="fields">
      <${Field} label="Effort" hint="With the tokens that a stream may spend."><${Choice} name="effort" choices=${efforts()} /><//>
      <${Field} label="Budget" hint="Tokens a stream may spend, as 400, or seconds for it all, as 5s. Wins over effort.">
        <${Text} name="budget" placeholder="as the effort says" pattern="\\s*\\d+(\\.\\d+)?\\s*s?\\s*" />
      <//>
      <${Field} label="Vote" hint=${info?.heads.verifier === false ? 'Without a verifier, weighted falls back to majority.' : undefined}>
        <${Choice} name="vote" choices=${[['', 'as the server chooses'], ...votes.map((vote) => [vote, vote])]} />
      <//>
    </div>
    <h3>Sampling</h3>
    <div class="fields">
      <${Field} label="Temperature" hint="0 always takes the likeliest token.">
        <${Text} name="temperature" type="number" min="0" max="5" step="0.1" placeholder="the server’s" />
      <//>
      <${Field} label="Seed" hint="The same seed draws the same streams again.">
        <${Text} name="seed" type="number" min="0" step="1" placeholder="drawn anew" />
      <//>
    </div>
    <h3>System message</h3>
    <${Field} label="Stands before every conversation">
      <textarea rows="3" value=${settings.system} onInput=${(event) => set({ system: event.target.value })} />
    <//>
    <h3>This page</h3>
    <div class="fields">
      <${Field} label="Theme"><${Choice} name="theme" choices=${[['', 'as the system'], ['light', 'light'], ['dark', 'dark']]} /><//>
      <${KeyField} />
    </div>
    <div class="row">
      <${Button} icon="download" label="Export all as JSON" onClick=${exportAll} />
      <${Button} icon="trash" kind="danger" label="Delete all conversations" onClick=${forgetAll} />
    </div>
    ${info ? html`<p class="hint">${info.model.name} on ${info.model.base} · ${info.name} ${info.version}</p>` : null}
  <//>`;
}

function KeyField() {
  return html`<${Field} label="API key" hint="Kept for this tab alone.">
    <input type="password" autocomplete="off" value=${api.key.get()} onChange=${(event) => {
      api.key.set(event.target.value);
      void connect();
    }} />
  <//>`;
}

/** Asks for the key when the server wants one. */
export function KeyDialog() {
  const [value, setValue] = useState('');
  const isRefused = Boolean(api.key.get());
  const give = async (event) => {
    event.preventDefault();
    api.key.set(value.trim());
    if (await connect()) event.target.closest('dialog')?.close();
  };
  return html`<${Dialog} title="This server asks for a key">
    <form onSubmit=${give}>
      <p>It is the one in the file or variable that <code>edgereason serve</code> was started with. It is kept for this tab alone.</p>
      <label class="field"><span class="name">API key</span>
        <input type="password" autocomplete="off" autofocus required value=${value} onInput=${(event) => setValue(event.target.value)} />
      </label>
      ${isRefused ? html`<p class="problem" role="alert">The server did not accept this key.</p>` : null}
      <div class="row end"><button type="submit" class="button primary">Use this key</button></div>
    </form>
  <//>`;
}

export function ShortcutsDialog() {
  return html`<${Dialog} title="Keyboard shortcuts">
    <dl class="shortcuts">
      ${SHORTCUTS.map(({ keys, words }) => html`<div><dt>${words}</dt><dd>${keys.map((one) => html`<kbd>${one}</kbd>`)}</dd></div>`)}
    </dl>
  <//>`;
}
