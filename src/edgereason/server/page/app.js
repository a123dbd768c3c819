/**
 * The page: a list of conversations, one of them, and a field for the next question.
 */
import { render } from './vendor/preact.js';
import { answerNow, openAddressed, openNew, refreshTitles, regenerate, stop, thinkHarder } from './asking.js';
import { Chat, Welcome } from './chat.js';
import { Composer, nextMode } from './composer.js';
import { connect } from './connect.js';
import { isOver, shownAnswer } from './conversation.js';
import { KeyDialog, SettingsDialog, ShortcutsDialog } from './dialogs.js';
import { exportJson, exportMarkdown } from './keeping.js';
import { listen } from './keys.js';
import { Sidebar } from './sidebar.js';
import { changed, closeToast, state, useChanges } from './state.js';
import { onOtherTab } from './store.js';
import { Button, count, html } from './ui.js';

function App() {
  useChanges();
  return html`
    <${Sidebar} />
    ${state.isMenuOpen ? html`<div class="shade" onClick=${closeMenu} />` : null}
    <main>
      <${TopBar} />
      ${state.open ? html`<${Chat} key=${state.open.id} conversation=${state.open} />` : html`<${Welcome} />`}
      <div class="dock"><${Problem} /><${Composer} /></div>
      <${ToastView} />
    </main>
    ${state.dialog === 'settings' ? html`<${SettingsDialog} />` : null}
    ${state.dialog === 'key' ? html`<${KeyDialog} />` : null}
    ${state.dialog === 'shortcuts' ? html`<${ShortcutsDialog} />` : null}
`;
}

function TopBar() {
  const conversation = state.open;
  return html`<header class="top">
    <${Button} bare icon="menu" label="Conversations" kind="quiet menu" aria-expanded=${state.isMenuOpen} onClick=${toggleMenu} />
    <h1>${conversation?.title ?? 'New conversation'}</h1>
    <${Context} />
    ${conversation
      ? html`<${Button} bare icon="download" label="Export as Markdown (with Shift: as JSON)" onClick=${(event) => (event.shiftKey ? exportJson : exportMarkdown)(conversation)} />`
      : null}
  </header>`;
}

/** How much of the model's context the conversation takes. */
function Context() {
  const most = state.info?.model.context_tokens;
  const usage = state.open?.turns.map((turn) => shownAnswer(turn)?.result?.usage).findLast(Boolean);
  if (!most) return null;
  const name = html`<span class="model">${state.info.model.name}</span>`;
  if (!usage) return name;
  const used = usage.prompt + (usage.answer ?? 0);
  return html`${name}<span class="context" role="meter" aria-label="Context used" aria-valuemin="0" aria-valuemax=${most} aria-valuenow=${Math.min(used, most)}
      title=${`${count(used)} of ${count(most)} tokens of context`}>
    <span class="bar"><span style=${{ transform: `scaleX(${Math.min(1, used / most)})` }} /></span>
  </span>`;
}

function Problem() {
  if (state.problem === 'unreachable') {
    return html`<p class="banner" role="status">The server can’t be reached. Conversations on this device can be read all the same. <${Button} icon="again" label="Try again" onClick=${connect} /></p>`;
  }
  if (state.problem === 'loading') return html`<p class="banner calm" role="status">The model is being loaded.</p>`;
  if (state.problem === 'key') {
    return html`<p class="banner" role="status">This server asks for a key. <${Button} icon="edit" label="Give the key" onClick=${() => ((state.dialog = 'key'), changed())} /></p>`;
  }
  return null;
}

function ToastView() {
  const { toast } = state;
  if (!toast) return null;
  const act = () => {
    toast.act();
    closeToast();
  };
  return html`<div class="toast" role="status"><span>${toast.message}</span>${toast.action ? html`<button type="button" onClick=${act}>${toast.action}</button>` : null}</div>`;
}

function toggleMenu() {
  state.isMenuOpen = !state.isMenuOpen;
  changed();
}

function closeMenu() {
  state.isMenuOpen = false;
  changed();
}

/** @param {'settings' | 'shortcuts'} dialog */
const toDialog = (dialog) => () => {
  state.dialog = dialog;
  changed();
};

const focusQuestion = () => document.getElementById('question')?.focus();

/** @param {(conversation: import('./conversation.js').Conversation, turn: import('./conversation.js').Turn) => void} act */
const onLastTurn = (act) => () => {
  const turn = state.open?.turns.at(-1);
  if (turn && isOver(shownAnswer(turn))) act(state.open, turn);
};

listen({
  stop: () => (state.isMenuOpen ? closeMenu() : stop(state.open)),
  now: () => state.open && answerNow(state.open),
  harder: onLastTurn(thinkHarder),
  again: onLastTurn(regenerate),
  new: () => (openNew(), focusQuestion()),
  focus: focusQuestion,
  mode: nextMode,
  menu: toggleMenu,
  settings: toDialog('settings'),
  shortcuts: toDialog('shortcuts'),
});
addEventListener('popstate', openAddressed);
onOtherTab(refreshTitles);

render(html`<${App} />`, document.getElementById('app'));
void connect();
void refreshTitles();
void openAddressed();
focusQuestion();
