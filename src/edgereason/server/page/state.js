/**
 * The state of the page, in one object, and a way to be told that it changed.
 *
 * Values are changed in place; whoever did it calls `changed`. Views are drawn at most once a frame, however many
 * events came in. An answer has a `version`, so that only what changed is compared and drawn.
 */
import { useEffect, useState } from './vendor/hooks.js';

/**
 * @typedef {import('./conversation.js').Conversation} Conversation
 * @typedef {{message: string, action?: string, act?: () => void}} Toast
 */
export const state = {
  /** @type {import('./api.js').Info | null} what the server said of itself */
  info: null,
  /** @type {'' | 'unreachable' | 'loading' | 'key'} why the server can't be asked */
  problem: '',
  /** @type {{id: string, title: string, changed: number}[]} newest first */
  titles: [],
  /** @type {Conversation | null} the one on the screen; null: a new one */
  open: null,
  /** @type {Set<string>} ids of conversations that are being answered */
  running: new Set(),
  /** @type {'' | 'settings' | 'key' | 'shortcuts'} */
  dialog: '',
  isMenuOpen: false,
  /** @type {Toast | null} */
  toast: null,
};

/** @type {Set<() => void>} */
const views = new Set();
let isDue = false;

/** Has the views drawn with the next frame. */
export function changed() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    for (const draw of views) draw();
  });
}

/** The state, for a view that is to be drawn when it changes. */
export function useChanges() {
  const [, draw] = useState(0);
  useEffect(() => {
    const again = () => draw((times) => times + 1);
    views.add(again);
    return () => void views.delete(again);
  }, []);
  return state;
}

let toastTimer = 0;

/** @param {string} message @param {string} [action] @param {() => void} [act] what the action does */
export function toast(message, action, act) {
  clearTimeout(toastTimer);
  state.toast = { message, action, act };
  toastTimer = setTimeout(closeToast, action ? 10_000 : 4_000);
  changed();
}

export function closeToast() {
  state.toast = null;
  changed();
}
