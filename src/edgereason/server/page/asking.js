/**
 * What a person can do with conversations: ask, stop, hurry, think harder, edit, open, delete.
 */
import * as api from './api.js';
import { end, harderThan, isOver, messagesFor, newAnswer, newConversation, newTurn, shownAnswer, take, titleOf } from './conversation.js';
import { asked } from './settings.js';
import { changed, state, toast } from './state.js';
import * as store from './store.js';

/**
 * @typedef {import('./conversation.js').Asked} Asked
 * @typedef {import('./conversation.js').Conversation} Conversation
 * @typedef {import('./conversation.js').Turn} Turn
 */

/** While an answer comes, it is kept this often, so that a reload loses little. */
const SAVE_EVERY_MS = 3_000;
/** Clocks on the screen move this often while an answer comes. */
const TICK_MS = 100;

/** @type {Map<string, {abort: AbortController, conversation: Conversation}>} by the answer's id */
const running = new Map();

/** @param {string} question */
export async function ask(question) {
  const conversation = state.open ?? newConversation();
  const turn = newTurn(question);
  if (!conversation.turns.length) conversation.title = titleOf(question);
  conversation.turns.push(turn);
  state.open = conversation;
  showAddress();
  await answer(conversation, turn, asked());
}

/** @param {Conversation} conversation @param {Turn} turn */
export const regenerate = (conversation, turn) => answer(conversation, turn, asked());

/** @param {Conversation} conversation @param {Turn} turn */
export async function thinkHarder(conversation, turn) {
  const options = harderThan(shownAnswer(turn));
  if (options) await answer(conversation, turn, options);
}

/**
 * Asks an edited question in the place of the old one. The turns after it answered something else, so they go.
 * @param {Conversation} conversation @param {Turn} turn @param {string} question
 */
export async function edit(conversation, turn, question) {
  const before = [...conversation.turns];
  const edited = newTurn(question);
  const place = before.indexOf(turn);
  stop(conversation);
  conversation.turns = [...before.slice(0, place), edited];
  if (place === 0) conversation.title = titleOf(question);
  if (place < before.length - 1) {
    toast('The turns after the edited question were removed.', 'Undo', () => {
      stop(conversation);
      conversation.turns = before;
      conversation.title = titleOf(before[0].question);
      keep(conversation);
    });
  }
  await answer(conversation, edited, asked());
}

/**
 * Has a turn answered; the new answer stands beside the turn's earlier ones.
 * @param {Conversation} conversation @param {Turn} turn @param {Asked} options
 */
async function answer(conversation, turn, options) {
  if (state.running.has(conversation.id)) return;
  const messages = messagesFor(conversation, turn);
  const fresh = newAnswer(options);
  turn.answers.push(fresh);
  turn.shown = turn.answers.length - 1;
  const abort = new AbortController();
  running.set(fresh.id, { abort, conversation });
  state.running.add(conversation.id);
  await keep(conversation);
  const clock = setInterval(changed, TICK_MS);
  let saved = Date.now();
  const { id } = fresh;
  try {
    for await (const frame of api.chat({ id, messages, ...options }, abort.signal)) {
      take(fresh, frame);
      changed();
      if (Date.now() - saved < SAVE_EVERY_MS) continue;
      saved = Date.now();
      void keep(conversation);
    }
    state.problem = '';
  } catch (error) {
    if (abort.signal.aborted) end(fresh, 'stopped');
    else {
      end(fresh, 'failed', error.message);
      blame(error);
    }
  } finally {
    clearInterval(clock);
    running.delete(id);
    state.running.delete(conversation.id);
    await keep(conversation);
  }
}

/** Says what is wrong with the server, if it is that. @param {any} error */
export function blame(error) {
  if (error.status === 401) {
    state.problem = 'key';
    state.dialog = 'key';
  } else if (error.status === 0) state.problem = 'unreachable';
  changed();
}

/** Ends what is being answered in a conversation. @param {Conversation | null} conversation */
export function stop(conversation) {
  for (const work of running.values()) if (work.conversation === conversation) work.abort.abort();
}

/** Has thinking streams closed at once, so that they answer with what they have. @param {Conversation} conversation */
export async function answerNow(conversation) {
  const current = conversation.turns.flatMap((turn) => turn.answers).find((one) => !isOver(one));
  if (!current || current.hurried) return;
  current.hurried = true;
  current.version += 1;
  changed();
  await api.answerNow(current.id).catch((error) => toast(error.message));
}

/** Which of a turn's answers is on the screen. @param {Conversation} conversation @param {Turn} turn @param {number} place */
export function show(conversation, turn, place) {
  turn.shown = Math.min(Math.max(place, 0), turn.answers.length - 1);
  void keep(conversation);
}

/** @param {Conversation} conversation */
async function keep(conversation) {
  conversation.changed = Date.now();
  changed();
  try {
    await store.save(conversation);
    await refreshTitles();
  } catch {
    toast('This browser keeps no data for this page: conversations end with the tab.');
  }
}

export async function refreshTitles() {
  state.titles = await store.titles().catch(() => []);
  changed();
}

export function openNew() {
  state.open = null;
  state.isMenuOpen = false;
  showAddress();
  changed();
}

/** @param {string} id */
export async function open(id) {
  state.isMenuOpen = false;
  const work = [...running.values()].find(({ conversation }) => conversation.id === id);
  state.open = work?.conversation ?? (await store.load(id)) ?? null;
  if (state.open && !work) for (const turn of state.open.turns) turn.answers.forEach(settle);
  showAddress();
  changed();
}

/** An answer that was coming when its tab was closed comes no more. @param {import('./conversation.js').Answer} answer */
function settle(answer) {
  if (isOver(answer)) return;
  answer.ended = answer.first ?? answer.began;
  answer.phase = 'stopped';
}

/** @param {string} id */
export async function remove(id) {
  const conversation = await store.load(id);
  if (!conversation) return;
  if (state.open?.id === id) {
    stop(state.open);
    openNew();
  }
  await store.remove(id);
  await refreshTitles();
  toast('Conversation deleted.', 'Undo', async () => {
    await store.save(conversation);
    await refreshTitles();
  });
}

/** The address names the conversation, so that a reload and the back button find it. */
function showAddress() {
  const address = state.open ? `#${state.open.id}` : location.pathname;
  if (location.hash !== (state.open ? address : '')) history.pushState(null, '', address);
  document.title = state.open ? `${state.open.title} · edgereason` : 'edgereason';
}

/** Opens what the address names. */
export const openAddressed = () => (location.hash.length > 1 ? open(location.hash.slice(1)) : openNew());
