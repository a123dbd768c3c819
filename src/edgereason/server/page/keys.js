/**
 * Keyboard shortcuts. All but Escape need Alt, so that none is pressed by a slip or by speech input.
 */

const ALT = /Mac|iP/.test(navigator.platform) ? '⌥' : 'Alt';

/** @type {{code: string, keys: string[], words: string, name?: string}[]} */
export const SHORTCUTS = [
  { code: '', keys: ['Enter'], words: 'Ask' },
  { code: '', keys: ['Shift', 'Enter'], words: 'New line' },
  { code: 'Escape', keys: ['Esc'], words: 'Stop', name: 'stop' },
  { code: 'KeyA', keys: [ALT, 'A'], words: 'Answer now', name: 'now' },
  { code: 'KeyH', keys: [ALT, 'H'], words: 'Think harder', name: 'harder' },
  { code: 'KeyR', keys: [ALT, 'R'], words: 'Answer again', name: 'again' },
  { code: 'KeyN', keys: [ALT, 'N'], words: 'New conversation', name: 'new' },
  { code: 'KeyI', keys: [ALT, 'I'], words: 'Go to the question field', name: 'focus' },
  { code: 'KeyM', keys: [ALT, 'M'], words: 'Next mode: auto, chat, think', name: 'mode' },
  { code: 'KeyL', keys: [ALT, 'L'], words: 'List of conversations', name: 'menu' },
  { code: 'KeyS', keys: [ALT, 'S'], words: 'Settings', name: 'settings' },
  { code: 'KeyK', keys: [ALT, 'K'], words: 'These shortcuts', name: 'shortcuts' },
];

/**
 * @param {Record<string, () => void>} actions by name
 */
export function listen(actions) {
  addEventListener('keydown', (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey) return;
    const found = SHORTCUTS.find(({ code, name }) => name && code === event.code && (code === 'Escape') !== event.altKey);
    // A dialog closes with Escape by itself, and nothing behind it is to happen.
    if (!found || (event.code === 'Escape' ? document.querySelector('dialog[open]') : false)) return;
    event.preventDefault();
    actions[found.name]();
  });
}
