/**
 * Takes conversations out of the browser, or away.
 */
import { openNew, refreshTitles, stop } from './asking.js';
import { asMarkdown } from './conversation.js';
import { state, toast } from './state.js';
import * as store from './store.js';
import { download } from './ui.js';

/** @typedef {import('./conversation.js').Conversation} Conversation */

/** @param {Conversation} conversation */
const fileName = ({ title }) => title.replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 40) || 'conversation';

/** As a document for people. @param {Conversation} conversation */
export const exportMarkdown = (conversation) =>
  download(`${fileName(conversation)}.md`, asMarkdown(conversation), 'text/markdown');

/** Everything there is of one, for programs. @param {Conversation} conversation */
export const exportJson = (conversation) =>
  download(`${fileName(conversation)}.json`, JSON.stringify(conversation, null, 2), 'application/json');

export async function exportAll() {
  download('conversations.json', JSON.stringify(await store.loadAll(), null, 2), 'application/json');
}

export async function forgetAll() {
  const conversations = await store.loadAll();
  stop(state.open);
  openNew();
  await store.removeAll();
  await refreshTitles();
  toast('All conversations deleted.', 'Undo', async () => {
    for (const conversation of conversations) await store.save(conversation);
    await refreshTitles();
  });
}
