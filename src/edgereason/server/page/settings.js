/**
 * What a person has chosen: kept on this device, sent with each request.
 */
import { changed, state } from './state.js';
import { count } from './ui.js';

/** @typedef {import('./conversation.js').Asked} Asked */

const KEPT = 'edgereason.settings';
const DEFAULTS = {
  mode: 'auto',
  effort: 'medium',
  /** tokens, as 400, or seconds, as 5s; wins over the effort */
  budget: '',
  streams: 4,
  vote: '',
  temperature: '',
  seed: '',
  system: '',
  theme: '',
};

/** @type {typeof DEFAULTS} */
export const settings = { ...DEFAULTS, ...read() };
applyTheme();

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? '{}');
  } catch {
    return {}; // no storage, or not ours: begin anew
  }
}

/** @param {Partial<typeof DEFAULTS>} values */
export function set(values) {
  Object.assign(settings, values);
  try {
    localStorage.setItem(KEPT, JSON.stringify(settings));
  } catch {
    // They hold until the tab is closed.
  }
  applyTheme();
  changed();
}

function applyTheme() {
  document.documentElement.dataset.theme = settings.theme;
}

/** @returns {Asked} the options of a new request */
export function asked() {
  const { mode, effort, budget, vote, temperature, seed, system } = settings;
  /** @type {Asked} */
  const options = { mode, streams: Math.min(settings.streams, state.info?.limits.streams ?? 8) };
  if (budget.trim()) options.budget = /^\d+$/.test(budget.trim()) ? Number(budget) : budget.trim();
  else options.effort = effort;
  if (vote) options.vote = vote;
  if (temperature !== '') options.temperature = Number(temperature);
  if (seed !== '') options.seed = Number(seed);
  if (system.trim()) options.system = system;
  return options;
}

/** Efforts that think, with their tokens, as the server has them. @returns {[string, string][]} value and words */
export function efforts() {
  return Object.entries(state.info?.efforts ?? { low: { tokens: 0 }, medium: { tokens: 0 }, high: { tokens: 0 } })
    .filter(([, effort]) => effort.tokens !== null)
    .map(([name, { tokens }]) => [name, tokens ? `${name} · ${count(tokens)}` : name]);
}
